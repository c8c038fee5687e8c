-- Schema version 2.

-- What runs have told of their progress: the newest of each task. It stands apart from the task, whose
-- row is written anew by each reserve and settle. The fence is that of the run: a statement looks at the
-- task without locking it, and one that comes late is not to hide what a later run has told.
CREATE TABLE sitq.progress (
    seq   bigint           PRIMARY KEY,
    fence bigint           NOT NULL,
    done  double precision NOT NULL CHECK (done >= 0 AND done < 'Infinity'),
    total double precision          CHECK (total > 0 AND total < 'Infinity'),
    note  text             NOT NULL CHECK (length(note) <= 500),
    at    timestamptz      NOT NULL CHECK (isfinite(at))
);

-- Half a page for the rows and half for their next versions, as one statement may write all of a page:
-- so they stay in it, no index is touched, and most of what is dead goes without a vacuum.
ALTER TABLE sitq.progress SET (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000
);

-- Seconds that the event loop of a worker took to answer.
ALTER TABLE sitq.worker ADD COLUMN lag double precision CHECK (lag >= 0 AND lag < 'Infinity');
