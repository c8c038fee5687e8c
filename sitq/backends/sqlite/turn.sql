-- One statement settles what succeeded and reserves what comes next: `INSERT INTO sitq_turn`.
-- Everything here is temporary, of one connection. It does the usual case only: results that stand in
-- their rows, and the queue whose most urgent tasks come before those of all others. What it leaves
-- over, and what it fails at, is done by `queries.sql`.

CREATE TEMP VIEW sitq_turn AS
SELECT
    NULL AS ends,      -- JSON, [[seq, fence, where its value begins, how long it is], ...]
    NULL AS bodies,    -- a byte, for else it might be empty, and the values
    NULL AS number,    -- of ends
    NULL AS worker,
    NULL AS now,
    NULL AS most,      -- tasks to reserve
    NULL AS queues;    -- JSON, or NULL for all

CREATE TEMP TABLE sitq_ends (seq INTEGER PRIMARY KEY, fence, value, change);
CREATE TEMP TABLE sitq_top (queue, priority);
CREATE TEMP TABLE sitq_chosen (seq INTEGER PRIMARY KEY);
CREATE TEMP TABLE sitq_answer (settled, last, chosen, tasks);

CREATE TEMP VIEW sitq_pairs AS
WITH RECURSIVE
    queues (queue) AS (
        SELECT min(queue) FROM sitq_task WHERE state = 0
        UNION ALL
        SELECT (SELECT min(queue) FROM sitq_task WHERE state = 0 AND queue > queues.queue)
        FROM queues WHERE queues.queue IS NOT NULL
    )
SELECT
    queue,
    (SELECT max(priority) FROM sitq_task WHERE state = 0 AND queue = queues.queue) AS priority
FROM queues WHERE queue IS NOT NULL;

CREATE TEMP TRIGGER sitq_take_turn INSTEAD OF INSERT ON sitq_turn BEGIN
    DELETE FROM sitq_ends;
    DELETE FROM sitq_top;
    DELETE FROM sitq_chosen;
    DELETE FROM sitq_answer;

    -- Where there is no counter, or it is full, nothing is settled: the usual way says so.
    UPDATE sitq_meta SET value = value + NEW.number
    WHERE name = 'ended' AND typeof(value + NEW.number) = 'integer';
    INSERT INTO sitq_ends
    SELECT
        json_extract(value, '$[0]'),
        json_extract(value, '$[1]'),
        substr(NEW.bodies, json_extract(value, '$[2]'), json_extract(value, '$[3]')),
        (SELECT value FROM sitq_meta WHERE name = 'ended') - NEW.number + 1 + key
    FROM json_each(NEW.ends) WHERE changes() = 1;
    UPDATE OR IGNORE sitq_task SET
        state = 2, crashes = 0, unknown_since = NULL, error = NULL, worker = NULL, ended = NEW.now,
        (value, change) = (SELECT value, change FROM sitq_ends e WHERE e.seq = sitq_task.seq)
    WHERE seq IN (SELECT seq FROM sitq_ends)
        AND fence = (SELECT fence FROM sitq_ends e WHERE e.seq = sitq_task.seq)
        AND +worker = NEW.worker AND +state = 1;
    INSERT INTO sitq_answer (settled) SELECT changes();

    -- Of the served queues the one whose most urgent tasks are more urgent than those of all others.
    INSERT INTO sitq_top
    SELECT queue, priority FROM sitq_pairs
    WHERE NEW.most > 0 AND (NEW.queues IS NULL OR queue IN (SELECT value FROM json_each(NEW.queues)))
        AND NOT EXISTS (SELECT 1 FROM sitq_task WHERE state = 0 AND crashes > 0)
        AND EXISTS (SELECT 1 FROM sitq_worker WHERE id = NEW.worker)
    ORDER BY priority DESC LIMIT 2;
    DELETE FROM sitq_top WHERE (SELECT min(priority) < max(priority) FROM sitq_top)
        AND priority = (SELECT min(priority) FROM sitq_top);
    DELETE FROM sitq_top WHERE (SELECT count(*) FROM sitq_top) > 1;
    INSERT INTO sitq_chosen
    SELECT seq FROM sitq_task
    WHERE state = 0 AND queue = (SELECT queue FROM sitq_top)
        AND priority = (SELECT priority FROM sitq_top) AND run_at <= NEW.now
        AND crashes = 0 AND (deadline IS NULL OR deadline > NEW.now)
    ORDER BY run_at, seq LIMIT NEW.most;
    UPDATE OR IGNORE sitq_task SET
        state = 1, worker = NEW.worker, fence = fence + 1, started = NEW.now
    WHERE seq IN (SELECT seq FROM sitq_chosen)
        AND typeof(arguments) IN ('blob', 'null') AND coalesce(length(arguments), 0) <= 1024
        AND typeof(retry) IN ('blob', 'null') AND coalesce(length(retry), 0) <= 65536
        AND typeof(error) IN ('blob', 'null') AND coalesce(length(error), 0) <= 1024
        AND typeof(value) = 'null' AND cancel = 0;
    UPDATE sitq_answer SET
        last = (SELECT value FROM sitq_meta WHERE name = 'ended'),
        chosen = (SELECT json_group_array(seq) FROM sitq_chosen),
        tasks = (
            -- What is no number is written as one that nobody can read: then the row is looked at.
            SELECT json_group_array(json_array(
                seq,
                hex(CASE typeof(id) WHEN 'blob' THEN id END),
                name, queue, priority, fence, attempts, crashes, epoch,
                CASE typeof(run_at) WHEN 'real' THEN printf('%!.17g', run_at) ELSE '?' END,
                CASE typeof(timeout) WHEN 'real' THEN printf('%!.17g', timeout)
                    WHEN 'null' THEN NULL ELSE '?' END,
                CASE typeof(deadline) WHEN 'real' THEN printf('%!.17g', deadline)
                    WHEN 'null' THEN NULL ELSE '?' END,
                CASE typeof(retry) WHEN 'blob' THEN hex(retry) END,
                CASE typeof(arguments) WHEN 'blob' THEN hex(arguments) END,
                CASE typeof(enqueued) WHEN 'real' THEN printf('%!.17g', enqueued) ELSE '?' END,
                CASE typeof(unknown_since) WHEN 'real' THEN printf('%!.17g', unknown_since)
                    WHEN 'null' THEN NULL ELSE '?' END
            ))
            FROM sitq_task WHERE seq IN (SELECT seq FROM sitq_chosen) AND state = 1
        );
END;
