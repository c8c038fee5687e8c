-- Schema version 1. States: 0 pending, 1 running, 2 succeeded, 3 failed, 4 cancelled.
-- Times are seconds since 1970-01-01 UTC; a worker's beat and suspect are of the monotonic clock.

CREATE TABLE sitq_meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

-- `ended` numbers the tasks as they end, `pruned` grows with each deletion: waiters read both.
INSERT INTO sitq_meta (name, value) VALUES ('version', 1), ('ended', 0), ('pruned', 0);

CREATE TABLE sitq_task (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    name          TEXT    NOT NULL CHECK (name <> ''),
    queue         TEXT    NOT NULL CHECK (queue <> ''),
    state         INTEGER NOT NULL DEFAULT 0 CHECK (state IN (0, 1, 2, 3, 4)),
    priority      INTEGER NOT NULL CHECK (priority BETWEEN -100 AND 100),
    run_at        REAL    NOT NULL,
    key           TEXT             CHECK (key <> ''),
    fence         INTEGER NOT NULL DEFAULT 0,
    attempts      INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    crashes       INTEGER NOT NULL DEFAULT 0 CHECK (crashes >= 0),
    epoch         INTEGER NOT NULL DEFAULT 0,
    cancel        INTEGER NOT NULL DEFAULT 0 CHECK (cancel IN (0, 1)),
    worker        INTEGER,
    timeout       REAL,
    deadline      REAL,
    retry         BLOB,
    unknown_since REAL,
    enqueued      REAL    NOT NULL,
    started       REAL,
    ended         REAL,
    change        INTEGER,
    arguments     BLOB,
    value         BLOB,
    error         BLOB,
    group_id      INTEGER,
    child         TEXT             CHECK (child <> ''),
    born          INTEGER,
    digest        BLOB,
    CHECK ((state = 1) = (worker IS NOT NULL)),
    CHECK ((state >= 2) = (change IS NOT NULL)),
    CHECK ((state >= 2) = (ended IS NOT NULL)),
    CHECK (state > 0 OR cancel = 0)
);

-- Bodies over 1 KiB stand aside, so that an update of the row does not rewrite them.
-- part: 0 arguments, 1 value, 2 error.
CREATE TABLE sitq_big (
    seq  INTEGER NOT NULL,
    part INTEGER NOT NULL CHECK (part IN (0, 1, 2)),
    body BLOB    NOT NULL,
    PRIMARY KEY (seq, part)
);

-- Tasks that end together. A task opened it, as the ordinal-th of its groups and in this epoch, or a
-- program, whose lease is its owner. The generation grows when what did not succeed is to be enqueued
-- anew. In a task of a group, child tells it from the others, born is the generation in which it was
-- enqueued, and digest says what it calls.
CREATE TABLE sitq_group (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    parent     INTEGER,
    ordinal    INTEGER,
    epoch      INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    owner      INTEGER,
    detach     INTEGER NOT NULL DEFAULT 0 CHECK (detach IN (0, 1)),
    deadline   REAL,
    cancelled  INTEGER NOT NULL DEFAULT 0 CHECK (cancelled IN (0, 1)),
    CHECK ((parent IS NULL) <> (owner IS NULL)),
    CHECK ((parent IS NULL) = (ordinal IS NULL))
);

CREATE TABLE sitq_worker (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    host         TEXT    NOT NULL,
    pid          INTEGER NOT NULL,
    queues       TEXT,
    concurrency  INTEGER NOT NULL,
    lease        REAL    NOT NULL CHECK (lease > 0),
    started      REAL    NOT NULL,
    boot         TEXT    NOT NULL,
    beat         REAL    NOT NULL,
    suspect      REAL,
    suspect_boot TEXT,
    stuck        INTEGER NOT NULL DEFAULT 0 CHECK (stuck >= 0)
);

CREATE INDEX sitq_ready ON sitq_task (queue, priority DESC, run_at, seq) WHERE state = 0;
CREATE INDEX sitq_suspect ON sitq_task (queue, priority DESC, run_at, seq)
    WHERE state = 0 AND crashes > 0;
CREATE INDEX sitq_held ON sitq_task (worker) WHERE state = 1;
CREATE INDEX sitq_ended ON sitq_task (change, state) WHERE state >= 2;
CREATE UNIQUE INDEX sitq_live_key ON sitq_task (key) WHERE key IS NOT NULL AND state < 2;
CREATE INDEX sitq_expiring ON sitq_task (deadline) WHERE state = 0 AND deadline IS NOT NULL;
CREATE INDEX sitq_unknown ON sitq_task (unknown_since)
    WHERE state = 0 AND unknown_since IS NOT NULL;
CREATE UNIQUE INDEX sitq_child ON sitq_task (group_id, child, born) WHERE group_id IS NOT NULL;
CREATE INDEX sitq_child_ended ON sitq_task (group_id, change) WHERE group_id IS NOT NULL;
CREATE UNIQUE INDEX sitq_group_of ON sitq_group (parent, ordinal) WHERE parent IS NOT NULL;
CREATE INDEX sitq_group_owner ON sitq_group (owner) WHERE owner IS NOT NULL;
