-- Schema version 2.

-- What runs have told of their progress: the newest of each task. It stands apart from the task, whose
-- row is written anew by each reserve and settle.
CREATE TABLE sitq_progress (
    seq   INTEGER PRIMARY KEY,
    done  REAL NOT NULL CHECK (done >= 0 AND done < 9e999),
    total REAL          CHECK (total > 0 AND total < 9e999),
    note  TEXT NOT NULL CHECK (length(note) <= 500),
    at    REAL NOT NULL CHECK (at >= 0 AND at < 9e999)
);

-- Seconds that the event loop of a worker took to answer.
ALTER TABLE sitq_worker ADD COLUMN lag REAL CHECK (lag >= 0 AND lag < 9e999);
