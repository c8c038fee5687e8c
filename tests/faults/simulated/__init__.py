"""A whole queue in which nothing is left to chance: its store, its people, and what they did."""
