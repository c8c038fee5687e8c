-- Schema version 1. States: 0 pending, 1 running, 2 succeeded, 3 failed, 4 cancelled.
-- Every time is the server's, but for those that the caller of a task chose.

CREATE TABLE sitq.meta (
    name  text PRIMARY KEY,
    value text NOT NULL
);

-- `store` names this store wherever it is restored or reached from.
INSERT INTO sitq.meta (name, value) VALUES ('version', '1'), ('store', gen_random_uuid()::text);

-- Numbers the tasks as they end. Of one group it follows the order of the commits: who ends a child
-- holds the row of its group from before the number is drawn.
CREATE SEQUENCE sitq.ended AS bigint CACHE 1;

-- Numbers the tasks as they are enqueued.
CREATE SEQUENCE sitq.enqueued AS bigint CACHE 1;

CREATE TABLE sitq.task (
    seq           bigint      PRIMARY KEY DEFAULT nextval('sitq.enqueued'),
    id            uuid        NOT NULL UNIQUE,
    run_at        timestamptz NOT NULL CHECK (isfinite(run_at)),
    enqueued      timestamptz NOT NULL CHECK (isfinite(enqueued)),
    fence         bigint      NOT NULL DEFAULT 0,
    worker        bigint,
    batch         bigint,
    started       timestamptz          CHECK (isfinite(started)),
    ended         timestamptz          CHECK (isfinite(ended)),
    change        bigint,
    deadline      timestamptz          CHECK (isfinite(deadline)),
    timeout       double precision     CHECK (timeout >= 0 AND timeout <> 'NaN'),
    unknown_since timestamptz          CHECK (isfinite(unknown_since)),
    attempts      bigint      NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    crashes       bigint      NOT NULL DEFAULT 0 CHECK (crashes >= 0),
    epoch         bigint      NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    group_id      bigint,
    born          bigint,
    state         smallint    NOT NULL DEFAULT 0 CHECK (state IN (0, 1, 2, 3, 4)),
    priority      smallint    NOT NULL CHECK (priority BETWEEN -100 AND 100),
    cancel        boolean     NOT NULL DEFAULT false,
    name          text        COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    queue         text        COLLATE "C" NOT NULL CHECK (length(queue) BETWEEN 1 AND 255),
    key           text        COLLATE "C" CHECK (length(key) BETWEEN 1 AND 512),
    child         text        COLLATE "C" CHECK (length(child) BETWEEN 1 AND 512),
    retry         bytea,
    digest        bytea,
    arguments     bytea,
    value         bytea,
    error         bytea,
    CHECK ((state = 1) = (worker IS NOT NULL)),
    CHECK ((state >= 2) = (change IS NOT NULL)),
    CHECK ((state >= 2) = (ended IS NOT NULL)),
    CHECK (state > 0 OR NOT cancel)
);

-- Tasks that end together. A task opened it, as the ordinal-th of its groups and in this epoch, or a
-- program, whose lease is its owner. The generation grows when what did not succeed is to be enqueued
-- anew. In a task of a group, child tells it from the others, born is the generation in which it was
-- enqueued, and digest says what it calls.
CREATE TABLE sitq.task_group (
    id         bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parent     bigint,
    ordinal    bigint,
    epoch      bigint  NOT NULL DEFAULT 0,
    generation bigint  NOT NULL DEFAULT 0,
    owner      bigint,
    deadline   timestamptz CHECK (isfinite(deadline)),
    detach     boolean NOT NULL DEFAULT false,
    cancelled  boolean NOT NULL DEFAULT false,
    CHECK ((parent IS NULL) <> (owner IS NULL)),
    CHECK ((parent IS NULL) = (ordinal IS NULL))
);

CREATE TABLE sitq.worker (
    id          bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host        text             NOT NULL,
    pid         bigint           NOT NULL,
    queues      text[],
    concurrency bigint           NOT NULL,
    lease       double precision NOT NULL CHECK (lease > 0 AND lease < 'Infinity'),
    started     timestamptz      NOT NULL CHECK (isfinite(started)),
    beat        timestamptz      NOT NULL CHECK (isfinite(beat)),
    suspect     timestamptz               CHECK (isfinite(suspect)),
    stuck       bigint           NOT NULL DEFAULT 0 CHECK (stuck >= 0)
);

CREATE INDEX task_ready ON sitq.task (queue, priority DESC, run_at, seq) WHERE state = 0;
CREATE INDEX task_suspect ON sitq.task (queue, priority DESC, run_at, seq)
    WHERE state = 0 AND crashes > 0;
CREATE INDEX task_held ON sitq.task (worker) WHERE state = 1;
CREATE INDEX task_ended ON sitq.task (change) WHERE state >= 2;
CREATE UNIQUE INDEX task_live_key ON sitq.task (key) WHERE key IS NOT NULL AND state < 2;
CREATE INDEX task_expiring ON sitq.task (deadline) WHERE state = 0 AND deadline IS NOT NULL;
CREATE INDEX task_unknown ON sitq.task (unknown_since)
    WHERE state = 0 AND unknown_since IS NOT NULL;
CREATE UNIQUE INDEX task_child ON sitq.task (group_id, child, born) WHERE group_id IS NOT NULL;
CREATE INDEX task_child_ended ON sitq.task (group_id, change) WHERE group_id IS NOT NULL;
CREATE UNIQUE INDEX task_group_of ON sitq.task_group (parent, ordinal) WHERE parent IS NOT NULL;
CREATE INDEX task_group_owner ON sitq.task_group (owner) WHERE owner IS NOT NULL;

-- A queue is a table of a few rows that live for a moment: what is dead has to go soon, or every look
-- walks past it.
ALTER TABLE sitq.task SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE sitq.worker SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
ALTER TABLE sitq.task_group SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200
);
