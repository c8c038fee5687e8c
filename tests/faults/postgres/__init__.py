"""Faults of a PostgreSQL server, and of the line to it."""
