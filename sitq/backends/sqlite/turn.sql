-- One statement settles what succeeded and reserves what comes next: `INSERT INTO sitq_turn`.
-- Everything here is temporary, of one connection. It does the usual case only: results that stand in
-- their rows, of tasks that opened no group, and the queue whose most urgent tasks come before those of
-- all others. What it leaves over, and what it fails at, is done by `queries.sql`. Names in braces stand
-- for a query there, and for what `damage.py` holds a row to.

CREATE TEMP VIEW IF NOT EXISTS sitq_turn AS
SELECT
    NULL AS ends,      -- JSON: by seq its fence, begin and size of its value, and position, as one number
    NULL AS bodies,    -- a byte, for else it might be empty, and the values
    NULL AS number,    -- of ends
    NULL AS worker,
    NULL AS now,
    NULL AS most,      -- tasks to reserve
    NULL AS queues;    -- JSON, or NULL for all

CREATE TEMP TABLE IF NOT EXISTS sitq_ends (seq INTEGER PRIMARY KEY, fence, value, change);
CREATE TEMP TABLE IF NOT EXISTS sitq_top (queue, priority);
CREATE TEMP TABLE IF NOT EXISTS sitq_chosen (seq INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS sitq_answer (settled, last, chosen, tasks);

CREATE TEMP VIEW IF NOT EXISTS sitq_pairs AS
{pairs};

CREATE TEMP TRIGGER IF NOT EXISTS sitq_take_turn INSTEAD OF INSERT ON sitq_turn BEGIN
    DELETE FROM sitq_ends;
    DELETE FROM sitq_top;
    DELETE FROM sitq_chosen;
    DELETE FROM sitq_answer;

    -- Where there is no counter, or it is full, nothing is settled: the usual way says so.
    UPDATE sitq_meta SET value = value + NEW.number
    WHERE name = 'ended' AND typeof(value + NEW.number) = 'integer';
    INSERT INTO sitq_ends
    SELECT
        CAST(key AS INTEGER),
        value >> 41,
        substr(NEW.bodies, value >> 21 & 1048575, value >> 10 & 2047),
        (SELECT value FROM sitq_meta WHERE name = 'ended') - NEW.number + 1 + (value & 1023)
    FROM json_each(NEW.ends) WHERE changes() = 1;
    UPDATE OR IGNORE sitq_task SET
        state = 2, crashes = 0, unknown_since = NULL, error = NULL, worker = NULL, ended = NEW.now,
        (value, change) = (SELECT value, change FROM sitq_ends e WHERE e.seq = sitq_task.seq)
    WHERE seq IN (SELECT seq FROM sitq_ends)
        AND fence = (SELECT fence FROM sitq_ends e WHERE e.seq = sitq_task.seq)
        AND +worker = NEW.worker AND +state = 1
        AND NOT EXISTS (SELECT 1 FROM sitq_group WHERE parent = sitq_task.seq)
        AND (group_id IS NULL OR NOT EXISTS (
            SELECT 1 FROM sitq_group g JOIN sitq_task p ON p.seq = g.parent
            WHERE g.id = sitq_task.group_id AND p.crashes > 0
        ));
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
    -- All of them or none: arguments that stand aside, and rows that a stranger wrote, are not plain.
    DELETE FROM sitq_chosen WHERE EXISTS (
        SELECT 1 FROM sitq_task
        WHERE seq IN (SELECT seq FROM sitq_chosen) AND NOT (
            typeof(id) = 'blob' AND length(id) = 16
            AND typeof(name) = 'text' AND typeof(queue) = 'text' AND cancel = 0
            AND typeof(priority) = 'integer' AND priority BETWEEN -100 AND 100
            AND typeof(fence) = 'integer' AND fence BETWEEN {least} AND {most}
            AND typeof(attempts) = 'integer' AND attempts BETWEEN 0 AND {most}
            AND typeof(epoch) = 'integer' AND epoch BETWEEN 0 AND {most}
            AND typeof(run_at) = 'real' AND run_at BETWEEN 0 AND {latest}
            AND typeof(enqueued) = 'real' AND enqueued BETWEEN 0 AND {latest}
            AND (timeout IS NULL OR (typeof(timeout) = 'real' AND timeout >= 0))
            AND (deadline IS NULL OR (typeof(deadline) = 'real' AND deadline BETWEEN 0 AND {latest}))
            AND (unknown_since IS NULL
                OR (typeof(unknown_since) = 'real' AND unknown_since BETWEEN 0 AND {latest}))
            AND typeof(group_id) IN ('integer', 'null')
            AND typeof(arguments) = 'blob' AND length(arguments) <= 1024
            AND typeof(retry) IN ('blob', 'null') AND coalesce(length(retry), 0) <= 65536
            AND typeof(error) IN ('blob', 'null') AND coalesce(length(error), 0) <= 1024
            AND typeof(value) = 'null'
        )
    );
    UPDATE OR IGNORE sitq_task SET
        state = 1, worker = NEW.worker, fence = fence + 1, started = NEW.now
    WHERE seq IN (SELECT seq FROM sitq_chosen);
    UPDATE sitq_answer SET
        last = (SELECT value FROM sitq_meta WHERE name = 'ended'),
        chosen = (SELECT json_group_array(seq) FROM sitq_chosen),
        tasks = (
            -- JSON has no bytes, and gives numbers 15 digits only. A time of today is a whole number
            -- of 1/4194304 seconds: SQLite keeps it in 52 bits, of which 22 stand for the fraction.
            SELECT json_group_array(json_array(
                seq, hex(id), name, queue, priority, fence, attempts, epoch,
                CASE WHEN CAST(run_at * 4194304.0 AS INTEGER) = run_at * 4194304.0
                    THEN CAST(run_at * 4194304.0 AS INTEGER) ELSE printf('%!.17g', run_at) END,
                CASE WHEN timeout IS NOT NULL THEN printf('%!.17g', timeout) END,
                CASE WHEN deadline IS NOT NULL THEN printf('%!.17g', deadline) END,
                CASE WHEN retry IS NOT NULL THEN hex(retry) END,
                hex(arguments),
                CASE WHEN CAST(enqueued * 4194304.0 AS INTEGER) = enqueued * 4194304.0
                    THEN CAST(enqueued * 4194304.0 AS INTEGER) ELSE printf('%!.17g', enqueued) END,
                CASE WHEN unknown_since IS NOT NULL THEN printf('%!.17g', unknown_since) END,
                group_id
            ))
            FROM sitq_task WHERE seq IN (SELECT seq FROM sitq_chosen) AND state = 1
        );
END;
