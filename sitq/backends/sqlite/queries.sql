-- Index predicates are repeated to the letter (`state = 0`, `state >= 2`): the planner compares text.
-- {values} stands for a generated list of placeholders, never for data.

-- name: insert
INSERT INTO sitq_task
    (id, name, queue, priority, run_at, key, timeout, deadline, retry, enqueued, arguments)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_keyed
INSERT INTO sitq_task
    (id, name, queue, priority, run_at, key, timeout, deadline, retry, enqueued, arguments)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) WHERE key IS NOT NULL AND state < 2 DO NOTHING

-- name: key_holder
SELECT id FROM sitq_task WHERE key = ? AND key IS NOT NULL AND state < 2

-- name: seq_of
SELECT seq FROM sitq_task WHERE id = ?

-- name: put_big
INSERT INTO sitq_big (seq, part, body) VALUES (?, ?, ?)
ON CONFLICT (seq, part) DO UPDATE SET body = excluded.body

-- name: drop_big
DELETE FROM sitq_big WHERE seq = ? AND part = ?

-- name: pairs
-- The live (queue, priority) pairs, one seek each.
WITH RECURSIVE
    queues (queue) AS (
        SELECT min(queue) FROM sitq_task WHERE state = 0
        UNION ALL
        SELECT (SELECT min(queue) FROM sitq_task WHERE state = 0 AND queue > queues.queue)
        FROM queues WHERE queues.queue IS NOT NULL
    ),
    pairs (queue, priority) AS (
        SELECT queue, (SELECT max(priority) FROM sitq_task WHERE state = 0 AND queue = queues.queue)
        FROM queues WHERE queue IS NOT NULL
        UNION ALL
        SELECT queue, (
            SELECT max(priority) FROM sitq_task
            WHERE state = 0 AND queue = pairs.queue AND priority < pairs.priority
        )
        FROM pairs WHERE priority IS NOT NULL
    )
SELECT queue, priority FROM pairs WHERE priority IS NOT NULL

-- name: ready
SELECT seq, run_at FROM sitq_task
WHERE state = 0 AND queue = ? AND priority = ? AND run_at <= ?
    AND crashes = 0 AND (deadline IS NULL OR deadline > ?)
    AND name NOT IN (SELECT value FROM json_each(?))
ORDER BY run_at, seq LIMIT ?

-- name: ready_suspect
SELECT seq, run_at FROM sitq_task
WHERE state = 0 AND crashes > 0 AND queue = ? AND priority = ? AND run_at <= ?
    AND (deadline IS NULL OR deadline > ?)
    AND name NOT IN (SELECT value FROM json_each(?))
ORDER BY run_at, seq LIMIT 1

-- name: next_due
SELECT min(run_at) FROM sitq_task WHERE state = 0 AND queue = ? AND priority = ? AND run_at > ?

-- name: reserve
-- Nothing for a worker whose lease was taken while it stood still: its tasks would be taken at once.
UPDATE sitq_task SET state = 1, worker = ?1, fence = fence + 1, started = ?2
WHERE seq IN ({values}) AND EXISTS (SELECT 1 FROM sitq_worker WHERE id = ?1)
RETURNING seq, id, name, queue, priority, fence, attempts, crashes, epoch, run_at, timeout,
    deadline, retry,
    coalesce(arguments, (SELECT body FROM sitq_big b WHERE b.seq = sitq_task.seq AND b.part = 0)),
    enqueued, unknown_since

-- name: settle
WITH v (seq, fence, state, run_at, attempts, crashes, epoch, unknown_since, value, error, change, keep) AS
    (VALUES {values})
UPDATE sitq_task SET
    state = v.state, run_at = v.run_at, attempts = v.attempts, crashes = v.crashes,
    epoch = v.epoch, unknown_since = v.unknown_since, value = v.value,
    error = CASE WHEN v.keep THEN sitq_task.error ELSE v.error END,
    change = v.change, worker = NULL, ended = CASE WHEN v.state >= 2 THEN ? END
FROM v
WHERE sitq_task.seq = v.seq AND sitq_task.fence = v.fence AND sitq_task.worker IS ?
    AND sitq_task.state = ? AND (v.state >= 2 OR sitq_task.cancel = 0)
RETURNING sitq_task.seq

-- name: raise_ended
UPDATE sitq_meta SET value = value + ? WHERE name = 'ended' RETURNING value

-- name: raise_pruned
UPDATE sitq_meta SET value = value + 1 WHERE name = 'pruned'

-- name: meta
SELECT name, value FROM sitq_meta

-- name: cancelled
SELECT seq FROM sitq_task WHERE state = 1 AND worker = ? AND cancel = 1

-- name: state_of
SELECT seq, state FROM sitq_task WHERE id = ?

-- name: cancel_pending
UPDATE sitq_task SET state = 4, cancel = 1, change = ?, ended = ? WHERE seq = ? AND state = 0

-- name: cancel_running
UPDATE sitq_task SET cancel = 1 WHERE seq = ? AND state = 1

-- name: revive
UPDATE sitq_task SET
    state = 0, cancel = 0, run_at = ?, fence = fence + 1, epoch = epoch + 1, attempts = 0,
    crashes = 0, unknown_since = NULL, change = NULL, ended = NULL, value = NULL, error = NULL
WHERE seq = ? AND state >= 3

-- name: get
SELECT seq, id, name, queue, state, priority, key, attempts, crashes, cancel, enqueued, run_at,
    deadline, started, ended,
    coalesce(value, (SELECT body FROM sitq_big b WHERE b.seq = sitq_task.seq AND b.part = 1)),
    coalesce(error, (SELECT body FROM sitq_big b WHERE b.seq = sitq_task.seq AND b.part = 2))
FROM sitq_task WHERE id = ?

-- name: find
SELECT seq, id, name, queue, state, priority, key, attempts, crashes, cancel, enqueued, run_at,
    deadline, started, ended, NULL,
    coalesce(error, (SELECT body FROM sitq_big b WHERE b.seq = sitq_task.seq AND b.part = 2))
FROM sitq_task
WHERE seq > ? AND (?2 IS NULL OR state = ?2) AND (?3 IS NULL OR queue = ?3)
    AND (?4 IS NULL OR name = ?4) AND (?5 IS NULL OR key = ?5)
ORDER BY seq LIMIT ?

-- name: counts
SELECT 0, count(*) FROM sitq_task WHERE state = 0
UNION ALL SELECT 1, count(*) FROM sitq_task WHERE state = 1
UNION ALL SELECT state, count(*) FROM sitq_task WHERE state >= 2 GROUP BY state

-- name: counts_of_queue
SELECT state, count(*) FROM sitq_task WHERE queue = ? GROUP BY state

-- name: ends
-- Read row by row, and left at the first that is too young.
SELECT seq, ended, (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR queue = ?2)
    AND (?3 IS NULL OR name = ?3) AND (?4 IS NULL OR key = ?4)
FROM sitq_task WHERE state >= 2 ORDER BY change

-- name: prune
DELETE FROM sitq_task WHERE seq = ?

-- name: prune_big
DELETE FROM sitq_big WHERE seq = ?

-- name: ended_since
SELECT change, id FROM sitq_task WHERE state >= 2 AND change > ? ORDER BY change LIMIT 1000

-- name: hire
INSERT INTO sitq_worker (host, pid, queues, concurrency, lease, started, boot, beat)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: dismiss
DELETE FROM sitq_worker WHERE id = ?

-- name: beat
UPDATE sitq_worker SET beat = ?, boot = ?, suspect = NULL, suspect_boot = NULL WHERE id = ?
RETURNING id

-- name: report
UPDATE sitq_worker SET stuck = ? WHERE id = ? AND stuck <> ?1

-- name: workers
SELECT id, host, pid, queues, concurrency, lease, started, boot, beat, stuck FROM sitq_worker
ORDER BY id

-- name: is_shared
SELECT EXISTS (SELECT 1 FROM sitq_worker WHERE pid <> ?)

-- name: others
SELECT id, lease, boot, beat, suspect, suspect_boot FROM sitq_worker WHERE id <> ?

-- name: suspect
UPDATE sitq_worker SET suspect = ?, suspect_boot = ? WHERE id = ?

-- name: held_by
SELECT seq, id, name, queue, priority, fence, attempts, crashes, epoch, run_at, timeout, deadline,
    retry, x'', enqueued, unknown_since, cancel
FROM sitq_task WHERE state = 1 AND worker = ?

-- name: owners_without_lease
SELECT DISTINCT worker FROM sitq_task
WHERE state = 1 AND worker NOT IN (SELECT id FROM sitq_worker)

-- name: expired
SELECT seq, id, name, queue, priority, fence, attempts, crashes, epoch, run_at, timeout, deadline,
    retry, x'', enqueued, unknown_since
FROM sitq_task WHERE state = 0 AND deadline IS NOT NULL AND deadline <= ? LIMIT 500

-- name: forgotten
SELECT seq, id, name, queue, priority, fence, attempts, crashes, epoch, run_at, timeout, deadline,
    retry, x'', enqueued, unknown_since
FROM sitq_task WHERE state = 0 AND unknown_since IS NOT NULL AND unknown_since <= ? LIMIT 500

-- name: find_unknown
SELECT seq FROM sitq_task
WHERE state = 0 AND unknown_since IS NULL AND name IN (SELECT value FROM json_each(?1))
    AND (?2 IS NULL OR queue IN (SELECT value FROM json_each(?2)))
LIMIT 1000

-- name: mark_unknown
UPDATE sitq_task SET unknown_since = ? WHERE seq = ? AND state = 0 AND unknown_since IS NULL

-- name: clear_known
UPDATE sitq_task SET unknown_since = NULL
WHERE state = 0 AND unknown_since IS NOT NULL AND name IN (SELECT value FROM json_each(?1))
    AND (?2 IS NULL OR queue IN (SELECT value FROM json_each(?2)))
