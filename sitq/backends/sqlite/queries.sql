-- Index predicates are repeated to the letter (`state = 0`, `state >= 2`): the planner compares text.
-- {values} stands for a generated list of placeholders, never for data; other names in braces stand
-- for a part that is named above.
-- Rows may have been written by a stranger. OR IGNORE leaves alone those that break a rule of the
-- schema, and nothing is loaded that is larger than what sitq writes.

-- name: its_name
CASE WHEN length(CAST(name AS BLOB)) <= 1020 THEN name END

-- name: its_queue
CASE WHEN length(CAST(queue AS BLOB)) <= 1020 THEN queue END

-- name: its_key
CASE WHEN key IS NULL OR length(CAST(key AS BLOB)) <= 2048 THEN key ELSE x'' END

-- name: its_id
CASE WHEN typeof(id) = 'blob' AND length(id) = 16 THEN id END

-- name: its_error
-- An empty one cannot be read, and says so.
coalesce(
    CASE WHEN typeof(error) = 'null' THEN NULL
        WHEN typeof(error) = 'blob' AND length(error) <= 4194304 THEN error ELSE x'' END,
    (SELECT CASE WHEN typeof(body) = 'blob' AND length(body) <= 4194304 THEN body ELSE x'' END
    FROM sitq_big b WHERE b.seq = sitq_task.seq AND b.part = 2)
)

-- name: its_value
-- Up to ?1 bytes.
CASE WHEN ?1 > 0 THEN coalesce(
    CASE WHEN typeof(value) = 'blob' AND length(value) <= ?1 THEN value END,
    (SELECT body FROM sitq_big b WHERE b.seq = sitq_task.seq AND b.part = 1
    AND typeof(body) = 'blob' AND length(body) <= ?1)
) END

-- name: told
-- What a task has told of its progress. A stranger may have added columns, with names that stand here.
LEFT JOIN (SELECT seq AS its_task, done, total, note, at FROM sitq_progress) told
ON told.its_task = sitq_task.seq

-- name: its_row
-- The fields of a `TaskRow`, of a task with `told`.
seq, {its_id}, {its_name}, {its_queue}, state,
priority, {its_key}, attempts, crashes, cancel,
enqueued, run_at, deadline, started, ended,
{its_value},
{its_error},
told.done, told.total,
CASE WHEN length(CAST(told.note AS BLOB)) <= 2000 THEN told.note END, told.at

-- name: its_run
-- The fields of a `Reservation`, without policy and arguments.
seq, {its_id}, {its_name}, {its_queue}, priority,
fence, attempts, crashes, epoch, run_at, timeout, deadline, NULL, x'', enqueued, unknown_since, group_id

-- name: new_columns
id, name, queue, priority, run_at, key, timeout, deadline, retry, arguments, enqueued

-- name: insert
INSERT INTO sitq_task
    ({new_columns})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_many
-- Empty places have no id. The rows come in the order of the values.
WITH v ({new_columns}) AS
    (VALUES {values})
INSERT INTO sitq_task
    ({new_columns})
SELECT * FROM v WHERE id IS NOT NULL

-- name: insert_keyed
INSERT INTO sitq_task
    ({new_columns})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) WHERE key IS NOT NULL AND state < 2 DO NOTHING

-- name: key_holder
SELECT seq, {its_id} FROM sitq_task WHERE key = ? AND key IS NOT NULL AND state < 2

-- name: seq_of
SELECT seq FROM sitq_task WHERE id = ?

-- name: is_last_number
SELECT 1 FROM sqlite_sequence WHERE name = 'sitq_task' AND seq >= 9223372036854775807
UNION ALL SELECT 1 FROM sitq_task WHERE seq = 9223372036854775807

-- name: put_big
INSERT INTO sitq_big (seq, part, body) VALUES (?, ?, ?)
ON CONFLICT (seq, part) DO UPDATE SET body = excluded.body

-- name: drop_big
DELETE FROM sitq_big WHERE seq = ? AND part = ?

-- name: pending_queues
queues (queue) AS (
    SELECT min(queue) FROM sitq_task WHERE state = 0
    UNION ALL
    SELECT (SELECT min(queue) FROM sitq_task WHERE state = 0 AND queue > queues.queue)
    FROM queues WHERE queues.queue IS NOT NULL
)

-- name: pairs
-- The live (queue, priority) pairs, one seek each.
WITH RECURSIVE
    {pending_queues},
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
UPDATE OR IGNORE sitq_task SET state = 1, worker = ?1, fence = fence + 1, started = ?2
WHERE seq IN ({values}) AND EXISTS (SELECT 1 FROM sitq_worker WHERE id = ?1)
    AND typeof(arguments) IN ('blob', 'null') AND coalesce(length(arguments), 0) <= 1024
    AND typeof(retry) IN ('blob', 'null') AND coalesce(length(retry), 0) <= 65536
    AND typeof(error) IN ('blob', 'null') AND coalesce(length(error), 0) <= 1024
    AND typeof(value) = 'null' AND cancel = 0
RETURNING seq, id, {its_name}, {its_queue}, priority, fence, attempts, crashes, epoch, run_at,
    timeout, deadline, retry,
    coalesce(arguments, (SELECT body FROM sitq_big b WHERE b.seq = sitq_task.seq AND b.part = 0
    AND typeof(body) = 'blob' AND length(body) <= ?)),
    enqueued, unknown_since, group_id

-- name: has_lease
SELECT 1 FROM sitq_worker WHERE id = ?

-- name: settle
WITH v (seq, fence, state, run_at, attempts, crashes, epoch, unknown_since, value, error, change, keep) AS
    (VALUES {values})
UPDATE OR IGNORE sitq_task SET
    state = v.state, run_at = v.run_at, attempts = v.attempts,
    crashes = CASE WHEN ? THEN v.crashes ELSE min(v.crashes, sitq_task.crashes) END,
    epoch = v.epoch, unknown_since = v.unknown_since, value = v.value,
    error = CASE WHEN v.keep THEN sitq_task.error ELSE v.error END,
    change = v.change, worker = NULL, ended = CASE WHEN v.state >= 2 THEN ? END
FROM v
WHERE sitq_task.seq = v.seq AND sitq_task.fence = v.fence AND sitq_task.worker IS ?
    AND sitq_task.state = ? AND (v.state >= 2 OR sitq_task.cancel <> 1)
RETURNING sitq_task.seq, sitq_task.fence

-- name: progress
INSERT INTO sitq_progress (seq, done, total, note, at)
SELECT seq, ?, ?, ?, ? FROM sitq_task WHERE seq = ? AND fence = ? AND worker = ? AND state = 1
ON CONFLICT (seq) DO UPDATE SET
    done = excluded.done, total = excluded.total, note = excluded.note, at = excluded.at

-- name: ends_between
SELECT seq, fence FROM sitq_task WHERE state >= 2 AND change > ? AND change <= ?

-- name: was_ignored
-- Whether `settle` would have changed this row, were it sound.
SELECT 1 FROM sitq_task
WHERE seq = ? AND fence = ? AND worker IS ? AND state = ? AND (? >= 2 OR cancel <> 1)

-- name: condemned
-- The columns that may be bad, in the order of `condemn`.
SELECT {its_id}, {its_name}, {its_queue},
    priority, {its_key}, fence, attempts, crashes,
    epoch, run_at, timeout, deadline, enqueued, started
FROM sitq_task WHERE seq = ?

-- name: condemn
UPDATE sitq_task SET id = ?, name = ?, queue = ?, priority = ?, key = ?, fence = ?, attempts = ?,
    crashes = ?, epoch = ?, run_at = ?, timeout = ?, deadline = ?, enqueued = ?, started = ?,
    state = 3, cancel = 0, worker = NULL, unknown_since = NULL, ended = ?, change = ?, error = ?,
    value = NULL,
    retry = CASE WHEN typeof(retry) = 'blob' AND length(retry) <= 65536 THEN retry END,
    arguments = CASE WHEN typeof(arguments) = 'blob' AND length(arguments) <= 1024
        THEN arguments END
WHERE seq = ?

-- name: raise_ended
UPDATE sitq_meta SET value = value + ? WHERE name = 'ended' RETURNING value

-- name: raise_pruned
UPDATE sitq_meta SET value = value + 1 WHERE name = 'pruned'

-- name: meta
SELECT name, value FROM sitq_meta

-- name: cancelled
SELECT seq FROM sitq_task WHERE state = 1 AND worker = ? AND cancel = 1

-- name: taken
-- Of these tasks those that are no longer the worker's.
SELECT j.value FROM json_each(?1) j WHERE NOT EXISTS (
    SELECT 1 FROM sitq_task WHERE seq = j.value AND state = 1 AND worker = ?2
)

-- name: state_of
SELECT seq, state FROM sitq_task WHERE id = ?

-- name: cancel_pending
UPDATE OR IGNORE sitq_task SET state = 4, cancel = 1, change = ?, ended = ? WHERE seq = ? AND state = 0

-- name: cancel_running
UPDATE OR IGNORE sitq_task SET cancel = 1 WHERE seq = ? AND state = 1

-- name: revive
UPDATE sitq_task SET
    state = 0, cancel = 0, run_at = ?, fence = fence + 1, epoch = epoch + 1, attempts = 0,
    crashes = 0, unknown_since = NULL, change = NULL, ended = NULL, value = NULL, error = NULL
WHERE seq = ? AND state >= 3

-- name: get
SELECT {its_row} FROM sitq_task {told} WHERE id = ?2

-- name: arguments
-- Up to ?1 bytes.
SELECT coalesce(
    CASE WHEN typeof(arguments) = 'blob' AND length(arguments) <= ?1 THEN arguments END,
    (SELECT body FROM sitq_big b WHERE b.seq = sitq_task.seq AND b.part = 0
    AND typeof(body) = 'blob' AND length(body) <= ?1)
) FROM sitq_task WHERE id = ?2

-- name: is_found
seq > ?2 AND (?3 IS NULL OR state = ?3) AND (?4 IS NULL OR queue = ?4)
AND (?5 IS NULL OR name = ?5) AND (?6 IS NULL OR key = ?6)

-- name: find
SELECT {its_row} FROM sitq_task {told} WHERE {is_found} ORDER BY seq LIMIT ?7

-- name: find_running
-- They are few, and may stand behind a long history.
SELECT {its_row} FROM sitq_task INDEXED BY sitq_held {told} WHERE state = 1 AND {is_found}
ORDER BY seq LIMIT ?7

-- name: counts
SELECT 0, count(*) FROM sitq_task WHERE state = 0
UNION ALL SELECT 1, count(*) FROM sitq_task WHERE state = 1
UNION ALL SELECT state, count(*) FROM sitq_task WHERE state >= 2 GROUP BY state

-- name: counts_of_queue
SELECT state, count(*) FROM sitq_task WHERE queue = ? GROUP BY state

-- name: queues
-- Of pending tasks, one seek each, and of those that run, which are few.
WITH RECURSIVE {pending_queues}
SELECT {its_queue} FROM queues
UNION SELECT {its_queue} FROM sitq_task WHERE state = 1

-- name: is_free
-- Whether no living parent, and no open group, may come back to it.
(group_id IS NULL OR NOT EXISTS (
    SELECT 1 FROM sitq_group g LEFT JOIN sitq_task p ON p.seq = g.parent
    WHERE g.id = sitq_task.group_id AND (g.owner IS NOT NULL OR p.state < 2)
))

-- name: ends
SELECT seq, change, ended, (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR queue = ?2)
    AND (?3 IS NULL OR name = ?3) AND (?4 IS NULL OR key = ?4)
    AND {is_free}
FROM sitq_task WHERE state >= 2 AND change > ?5 ORDER BY change LIMIT ?6

-- name: prune
DELETE FROM sitq_task WHERE seq = ? AND state >= 2 AND change IS ? AND {is_free}

-- name: prune_big
DELETE FROM sitq_big WHERE seq = ?1 AND NOT EXISTS (SELECT 1 FROM sitq_task WHERE seq = ?1)

-- name: prune_progress
DELETE FROM sitq_progress WHERE seq = ?1 AND NOT EXISTS (SELECT 1 FROM sitq_task WHERE seq = ?1)

-- name: prune_groups
DELETE FROM sitq_group
WHERE parent IN (SELECT value FROM json_each(?))
    AND NOT EXISTS (SELECT 1 FROM sitq_task WHERE seq = parent)

-- name: ended_since
SELECT change, id FROM sitq_task WHERE state >= 2 AND change > ? AND change <= ?
ORDER BY change LIMIT 1000

-- name: hire
INSERT INTO sitq_worker (host, pid, queues, concurrency, lease, started, boot, beat)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: dismiss
-- Not while it holds tasks: they would be running with nobody to run them.
DELETE FROM sitq_worker
WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM sitq_task WHERE state = 1 AND worker = ?1)

-- name: beat
UPDATE OR IGNORE sitq_worker SET
    beat = ?, boot = ?, lag = coalesce(?, lag), suspect = NULL, suspect_boot = NULL
WHERE id = ? RETURNING id

-- name: report
UPDATE OR IGNORE sitq_worker SET stuck = ? WHERE id = ? AND stuck <> ?1

-- name: workers
SELECT id, host, pid, queues, concurrency, lease, started, boot, beat, stuck, lag,
    (SELECT count(*) FROM sitq_task WHERE state = 1 AND worker = sitq_worker.id)
FROM sitq_worker ORDER BY id

-- name: is_shared
SELECT EXISTS (SELECT 1 FROM sitq_worker WHERE pid <> ?)

-- name: others
SELECT id, lease, boot, beat, suspect, suspect_boot FROM sitq_worker WHERE id <> ?

-- name: suspect
UPDATE OR IGNORE sitq_worker SET suspect = ?, suspect_boot = ? WHERE id = ?

-- name: held_by
SELECT {its_run}, cancel FROM sitq_task WHERE state = 1 AND worker IS ?

-- name: owners_without_lease
SELECT DISTINCT worker FROM sitq_task
WHERE state = 1 AND (worker IS NULL OR worker NOT IN (SELECT id FROM sitq_worker))

-- name: expired
SELECT {its_run} FROM sitq_task
WHERE state = 0 AND deadline IS NOT NULL AND deadline <= ? LIMIT 500

-- name: forgotten
SELECT {its_run} FROM sitq_task
WHERE state = 0 AND unknown_since IS NOT NULL AND unknown_since <= ? LIMIT 500

-- name: find_unknown
SELECT seq FROM sitq_task
WHERE state = 0 AND unknown_since IS NULL AND name IN (SELECT value FROM json_each(?1))
    AND (?2 IS NULL OR queue IN (SELECT value FROM json_each(?2)))
LIMIT 1000

-- name: mark_unknown
UPDATE OR IGNORE sitq_task SET unknown_since = ? WHERE seq = ? AND state = 0 AND unknown_since IS NULL

-- name: clear_known
UPDATE OR IGNORE sitq_task SET unknown_since = NULL
WHERE state = 0 AND unknown_since IS NOT NULL AND name IN (SELECT value FROM json_each(?1))
    AND (?2 IS NULL OR queue IN (SELECT value FROM json_each(?2)))
