-- Index predicates are repeated to the letter (`state = 0`, `state >= 2`), for the planner compares them.
-- Names in braces stand for a part that is named above; values are bound, times are seconds since 1970.
-- `now` is NULL but for tests, which bring a clock along.

-- name: now
coalesce(to_timestamp(%(now)s::float8), statement_timestamp())

-- name: seconds
SELECT extract(epoch FROM clock_timestamp())::float8

-- name: its_value
CASE WHEN octet_length(t.value) <= %(largest)s::bigint THEN t.value END

-- name: told
-- What a task has told of its progress.
LEFT JOIN sitq.progress told ON told.seq = t.seq

-- name: its_row
-- The fields of a `TaskRow`, of a task with `told`.
t.seq, t.id, t.name, t.queue, t.state, t.priority, t.key, t.attempts, t.crashes, t.cancel,
extract(epoch FROM t.enqueued)::float8, extract(epoch FROM t.run_at)::float8,
extract(epoch FROM t.deadline)::float8, extract(epoch FROM t.started)::float8,
extract(epoch FROM t.ended)::float8, {its_value},
CASE WHEN octet_length(t.error) <= 4194304 THEN t.error END,
told.done, told.total, told.note, extract(epoch FROM told.at)::float8

-- name: before_bodies
t.seq, t.id, t.name, t.queue, t.priority, t.fence, t.attempts, t.crashes, t.epoch,
extract(epoch FROM t.run_at)::float8, t.timeout, extract(epoch FROM t.deadline)::float8

-- name: after_bodies
extract(epoch FROM t.enqueued)::float8, extract(epoch FROM t.unknown_since)::float8, t.group_id

-- name: its_run
-- The fields of a `Reservation`, without policy and arguments.
{before_bodies}, NULL::bytea, ''::bytea, {after_bodies}

-- name: its_reservation
{before_bodies},
CASE WHEN octet_length(t.retry) <= 65536 THEN t.retry END,
CASE WHEN octet_length(t.arguments) <= %(largest)s::bigint THEN t.arguments END,
{after_bodies}

-- name: new_columns
id, name, queue, priority, run_at, key, timeout, deadline, retry, arguments, enqueued

-- name: new_values
-- What is due at once is so by the clock of the server; any other moment is stored as it was given.
v.id, v.name, v.queue, v.priority,
CASE WHEN %(now)s::float8 IS NULL AND v.run_at = v.enqueued
    THEN statement_timestamp() ELSE to_timestamp(v.run_at) END,
v.key, v.timeout, to_timestamp(v.deadline), v.retry, v.arguments,
CASE WHEN %(now)s::float8 IS NULL AND v.run_at <= v.enqueued
    THEN statement_timestamp() ELSE to_timestamp(v.enqueued) END

-- name: new_rows
unnest(
    %(ids)s::uuid[], %(names)s::text[], %(queues)s::text[], %(priorities)s::smallint[],
    %(run_at)s::float8[], %(keys)s::text[], %(timeouts)s::float8[], %(deadlines)s::float8[],
    %(retries)s::bytea[], %(arguments)s::bytea[], %(enqueued)s::float8[]
) WITH ORDINALITY
AS v (id, name, queue, priority, run_at, key, timeout, deadline, retry, arguments, enqueued, place)

-- name: insert
INSERT INTO sitq.task ({new_columns})
SELECT {new_values} FROM {new_rows} ORDER BY v.place

-- name: insert_one
-- The same for one row, in three quarters of the time.
INSERT INTO sitq.task ({new_columns})
SELECT {new_values} FROM (VALUES (
    %(id)s::uuid, %(name)s::text, %(queue)s::text, %(priority)s::smallint, %(run_at)s::float8,
    %(key)s::text, %(timeout)s::float8, %(deadline)s::float8, %(retry)s::bytea,
    %(arguments)s::bytea, %(enqueued)s::float8
)) AS v (id, name, queue, priority, run_at, key, timeout, deadline, retry, arguments, enqueued)

-- name: insert_again
-- Its first answer was lost: all of them are there, or none.
{insert} ON CONFLICT (id) DO NOTHING

-- name: new_keyed
-- Numbered in their order, and stored in that of their keys: two that store the same keys in different
-- orders would wait for each other.
INSERT INTO sitq.task (seq, {new_columns})
SELECT v.seq, {new_values} FROM (
    SELECT nextval('sitq.enqueued') AS seq, v.* FROM (SELECT * FROM {new_rows} ORDER BY v.place) v
) v
ORDER BY v.key NULLS FIRST, v.place

-- name: insert_keyed
{new_keyed} ON CONFLICT (key) WHERE key IS NOT NULL AND state < 2 DO NOTHING RETURNING id

-- name: insert_keyed_again
-- Its first answer was lost: all of them are there, or none.
{new_keyed} ON CONFLICT DO NOTHING RETURNING id

-- name: stored
-- Which of these are there.
SELECT id, seq FROM sitq.task WHERE id = ANY(%(ids)s::uuid[])

-- name: key_holders
SELECT key, id, group_id FROM sitq.task
WHERE key = ANY(%(keys)s::text[]) AND key IS NOT NULL AND state < 2

-- name: is_there
SELECT to_regclass('sitq.meta') IS NOT NULL

-- name: store
SELECT value FROM sitq.meta WHERE name = 'store'

-- name: all_queues
-- Of pending tasks, one seek each.
queues (queue) AS (
    SELECT min(queue) FROM sitq.task WHERE state = 0
    UNION ALL
    SELECT (SELECT min(t.queue) FROM sitq.task t WHERE t.state = 0 AND t.queue > q.queue)
    FROM queues q WHERE q.queue IS NOT NULL
)

-- name: these_queues
queues (queue) AS (SELECT DISTINCT unnest(%(queues)s::text[]))

-- name: pairs
-- The (queue, priority) pairs of pending tasks, one seek each.
pairs (queue, priority) AS (
    SELECT q.queue, (
        SELECT max(t.priority) FROM sitq.task t
        WHERE t.state = 0 AND t.queue = q.queue AND t.priority < %(below)s::smallint
    )
    FROM queues q WHERE q.queue IS NOT NULL
    UNION ALL
    SELECT p.queue, (
        SELECT max(t.priority) FROM sitq.task t
        WHERE t.state = 0 AND t.queue = p.queue AND t.priority < p.priority
    )
    FROM pairs p WHERE p.priority IS NOT NULL
)

-- name: fits
t.state = 0 AND t.queue = p.queue AND t.priority = p.priority
AND t.run_at <= (SELECT now FROM moment)
AND (t.deadline IS NULL OR t.deadline > (SELECT now FROM moment))
AND t.name <> ALL (%(skip)s::text[])

-- name: taking
-- Nothing for a worker without a lease: its tasks would be taken at once.
lease AS MATERIALIZED (
    SELECT id FROM sitq.worker WHERE id = %(worker)s AND EXISTS (SELECT 1 FROM chosen)
    FOR KEY SHARE
),
taken AS (
    UPDATE sitq.task t SET
        state = 1, worker = %(worker)s, batch = %(batch)s, fence = t.fence + 1,
        started = (SELECT now FROM moment)
    FROM chosen c
    WHERE t.seq = c.seq AND EXISTS (SELECT 1 FROM lease)
    RETURNING {its_reservation}
)

-- name: choice
-- The most urgent priority, below a given one, at which anything can be had. Rows that others are just
-- taking are passed over while they are looked for, not afterwards: or all would want the same ones.
-- Each row begins with that priority, if there is more below it, and with the time at which the next
-- task is due.
moment (now) AS MATERIALIZED (SELECT {now}),
due (queue, priority) AS MATERIALIZED (
    SELECT p.queue, p.priority FROM pairs p
    WHERE p.priority IS NOT NULL AND coalesce(
        -- Not EXISTS, and in order: else a list of all that fit is made, or the table is read.
        (SELECT true FROM sitq.task t WHERE {fits} AND t.crashes = 0 ORDER BY t.run_at LIMIT 1),
        (
            SELECT true FROM sitq.task t
            WHERE %(suspect)s::boolean AND {fits} AND t.crashes > 0 ORDER BY t.run_at LIMIT 1
        ),
        false
    )
),
top (priority) AS MATERIALIZED (SELECT max(priority) FROM due),
plain AS MATERIALIZED (
    SELECT t.seq, t.run_at FROM due p
    CROSS JOIN LATERAL (
        SELECT t.seq, t.run_at FROM sitq.task t WHERE {fits} AND t.crashes = 0
        ORDER BY t.run_at, t.seq LIMIT %(limit)s::integer FOR UPDATE SKIP LOCKED
    ) t
    WHERE p.priority = (SELECT priority FROM top)
),
suspects AS MATERIALIZED (
    SELECT t.seq, t.run_at FROM due p
    CROSS JOIN LATERAL (
        SELECT t.seq, t.run_at FROM sitq.task t WHERE {fits} AND t.crashes > 0
        ORDER BY t.run_at, t.seq LIMIT 1 FOR UPDATE SKIP LOCKED
    ) t
    WHERE %(suspect)s::boolean AND p.priority = (SELECT priority FROM top)
    ORDER BY t.run_at, t.seq LIMIT 1
),
chosen AS MATERIALIZED (
    SELECT seq, run_at FROM (SELECT * FROM plain UNION ALL SELECT * FROM suspects) c
    ORDER BY run_at, seq LIMIT %(limit)s::integer
),
{taking}
SELECT
    CASE WHEN EXISTS (SELECT 1 FROM due WHERE priority < top.priority) THEN top.priority END,
    CASE WHEN (SELECT count(*) FROM chosen) < %(limit)s::integer THEN (
        SELECT extract(epoch FROM min((
            SELECT min(t.run_at) FROM sitq.task t
            WHERE t.state = 0 AND t.queue = p.queue AND t.priority = p.priority
                AND t.run_at > (SELECT now FROM moment)
        )))::float8
        FROM pairs p WHERE p.priority IS NOT NULL
    ) END,
    taken.*
FROM top LEFT JOIN taken ON true

-- name: reserve
WITH RECURSIVE {these_queues}, {pairs}, {choice}

-- name: reserve_all
WITH RECURSIVE {all_queues}, {pairs}, {choice}

-- name: reserve_from
-- Behind the places of the last one, at its priority.
WITH moment (now) AS MATERIALIZED (SELECT {now}),
chosen AS MATERIALIZED (
    SELECT t.seq FROM (
        SELECT u.*, %(priority)s::smallint AS priority FROM unnest(
            %(floor_queues)s::text[], %(floor_times)s::float8[], %(floor_seqs)s::bigint[]
        ) AS u (queue, run_at, seq)
    ) p
    CROSS JOIN LATERAL (
        SELECT t.seq, t.run_at FROM sitq.task t
        WHERE {fits} AND (t.run_at, t.seq) > (to_timestamp(p.run_at), p.seq) AND t.crashes = 0
        ORDER BY t.run_at, t.seq LIMIT %(limit)s::integer FOR UPDATE SKIP LOCKED
    ) t
    ORDER BY t.run_at, t.seq LIMIT %(limit)s::integer
),
{taking}
SELECT * FROM taken

-- name: reserved
-- By tries whose answers were lost: what they took belongs to this one now.
UPDATE sitq.task t SET batch = %(batch)s
WHERE t.state = 1 AND t.worker = %(worker)s AND t.batch = ANY(%(lost)s::bigint[]) AND t.seq IN (
    SELECT h.seq FROM sitq.task h
    WHERE h.state = 1 AND h.worker = %(worker)s AND h.batch = ANY(%(lost)s::bigint[])
    ORDER BY h.seq LIMIT %(limit)s::integer
)
RETURNING {its_reservation}

-- name: changes
unnest(
    %(seqs)s::bigint[], %(fences)s::bigint[], %(states)s::smallint[], %(run_at)s::float8[],
    %(attempts)s::bigint[], %(crashes)s::bigint[], %(epochs)s::bigint[], %(unknown)s::float8[],
    %(values)s::bytea[], %(errors)s::bytea[], %(keep)s::boolean[]
) AS v (seq, fence, state, run_at, attempts, crashes, epoch, unknown_since, value, error, keep)

-- name: progress
-- In the order of their numbers, as everybody locks rows.
INSERT INTO sitq.progress AS p (seq, fence, done, total, note, at)
SELECT t.seq, v.fence, v.done, v.total, v.note, to_timestamp(v.at)
FROM unnest(
    %(seqs)s::bigint[], %(fences)s::bigint[], %(done)s::float8[], %(totals)s::float8[],
    %(notes)s::text[], %(times)s::float8[]
) AS v (seq, fence, done, total, note, at)
JOIN sitq.task t ON t.seq = v.seq
WHERE t.state = 1 AND t.worker = %(worker)s AND t.fence = v.fence ORDER BY t.seq
ON CONFLICT (seq) DO UPDATE SET
    fence = excluded.fence, done = excluded.done, total = excluded.total, note = excluded.note,
    at = excluded.at
WHERE p.fence <= excluded.fence

-- name: has_family
(t.group_id IS NOT NULL OR EXISTS (SELECT 1 FROM sitq.task_group g WHERE g.parent = t.seq))

-- name: settle
UPDATE sitq.task t SET
    state = v.state, run_at = to_timestamp(v.run_at), attempts = v.attempts,
    crashes = CASE WHEN %(is_sweep)s::boolean THEN v.crashes ELSE least(v.crashes, t.crashes) END,
    epoch = v.epoch, unknown_since = to_timestamp(v.unknown_since), value = v.value,
    error = CASE WHEN v.keep THEN t.error ELSE v.error END, worker = NULL, batch = NULL,
    change = CASE WHEN v.state >= 2 THEN nextval('sitq.ended') END,
    ended = CASE WHEN v.state >= 2 THEN {now} END
FROM {changes}
WHERE t.seq = v.seq AND t.fence = v.fence AND t.worker IS NOT DISTINCT FROM %(worker)s::bigint
    AND t.state = %(state)s::smallint AND (v.state >= 2 OR NOT t.cancel)

-- name: settle_plain
-- Without those that have a family, which are settled in a transaction that sees to it.
{settle} AND NOT {has_family} RETURNING t.seq, t.fence

-- name: settle_all
{settle} RETURNING t.seq, t.fence

-- name: families
-- Which of these have one.
SELECT t.seq FROM sitq.task t WHERE t.seq = ANY(%(seqs)s::bigint[]) AND {has_family}

-- name: settled
-- By a settle whose answer was lost.
SELECT t.seq, t.fence FROM sitq.task t JOIN {changes} ON t.seq = v.seq
WHERE t.fence = v.fence AND t.state = v.state AND t.worker IS NULL AND t.attempts = v.attempts

-- name: lock_groups
SELECT g.id FROM sitq.task_group g
WHERE g.id IN (SELECT t.group_id FROM sitq.task t WHERE t.seq = ANY(%(seqs)s::bigint[]))
ORDER BY g.id FOR NO KEY UPDATE

-- name: cancelled
SELECT t.seq FROM sitq.task t WHERE t.state = 1 AND t.worker = %(worker)s AND t.cancel

-- name: taken
-- Of these tasks those that are no longer the worker's.
SELECT c.seq FROM unnest(%(seqs)s::bigint[]) AS c (seq) WHERE NOT EXISTS (
    SELECT 1 FROM sitq.task t WHERE t.seq = c.seq AND t.state = 1 AND t.worker = %(worker)s
)

-- name: state_of
SELECT t.seq, t.state FROM sitq.task t WHERE t.id = %(id)s::uuid FOR NO KEY UPDATE

-- name: cancel_pending
UPDATE sitq.task SET state = 4, cancel = true, change = nextval('sitq.ended'), ended = {now}
WHERE seq = %(seq)s AND state = 0

-- name: cancel_running
UPDATE sitq.task SET cancel = true WHERE seq = ANY(%(seqs)s::bigint[]) AND state = 1 AND NOT cancel

-- name: revive
UPDATE sitq.task SET
    state = 0, cancel = false, run_at = {now}, fence = fence + 1, epoch = epoch + 1, attempts = 0,
    crashes = 0, unknown_since = NULL, change = NULL, ended = NULL, value = NULL, error = NULL
WHERE seq = %(seq)s AND state >= 3

-- name: get
SELECT {its_row} FROM sitq.task t {told} WHERE t.id = %(id)s::uuid

-- name: arguments
SELECT CASE WHEN octet_length(t.arguments) <= %(largest)s::bigint THEN t.arguments END
FROM sitq.task t WHERE t.id = %(id)s::uuid

-- name: is_found
t.seq > %(after)s AND (%(state)s::smallint IS NULL OR t.state = %(state)s::smallint)
AND (%(queue)s::text IS NULL OR t.queue = %(queue)s::text)
AND (%(name)s::text IS NULL OR t.name = %(name)s::text)
AND (%(key)s::text IS NULL OR t.key = %(key)s::text)

-- name: find
SELECT {its_row} FROM sitq.task t {told} WHERE {is_found}
ORDER BY t.seq LIMIT %(limit)s::integer

-- name: find_running
-- They are few, and may stand behind a long history: OFFSET keeps the planner from walking through that in
-- the order of the numbers.
SELECT {its_row} FROM (SELECT * FROM sitq.task WHERE state = 1 OFFSET 0) t {told} WHERE {is_found}
ORDER BY t.seq LIMIT %(limit)s::integer

-- name: counts
SELECT 0::smallint, count(*) FROM sitq.task WHERE state = 0
UNION ALL SELECT 1::smallint, count(*) FROM sitq.task WHERE state = 1
UNION ALL SELECT state, count(*) FROM sitq.task WHERE state >= 2 GROUP BY state

-- name: counts_of_queue
SELECT state, count(*) FROM sitq.task WHERE queue = %(queue)s GROUP BY state

-- name: queues
-- Of pending tasks, one seek each, and of those that run, which are few.
WITH RECURSIVE {all_queues}
SELECT queue FROM queues WHERE queue IS NOT NULL
UNION SELECT queue FROM sitq.task WHERE state = 1

-- name: is_free
-- Whether no living parent, and no open group, may come back to it.
(t.group_id IS NULL OR NOT EXISTS (
    SELECT 1 FROM sitq.task_group g LEFT JOIN sitq.task p ON p.seq = g.parent
    WHERE g.id = t.group_id AND (g.owner IS NOT NULL OR p.state < 2)
))

-- name: ends
SELECT t.seq, t.change, extract(epoch FROM t.ended)::float8,
    (%(state)s::smallint IS NULL OR t.state = %(state)s::smallint)
    AND (%(queue)s::text IS NULL OR t.queue = %(queue)s::text)
    AND (%(name)s::text IS NULL OR t.name = %(name)s::text)
    AND (%(key)s::text IS NULL OR t.key = %(key)s::text) AND {is_free}
FROM sitq.task t WHERE t.state >= 2 AND t.change > %(after)s ORDER BY t.change
LIMIT %(limit)s::integer

-- name: prune
DELETE FROM sitq.task t
USING unnest(%(seqs)s::bigint[], %(numbers)s::bigint[]) AS v (seq, change)
WHERE t.seq = v.seq AND t.state >= 2 AND t.change = v.change AND {is_free}

-- name: prune_progress
DELETE FROM sitq.progress p
WHERE p.seq = ANY(%(seqs)s::bigint[])
    AND NOT EXISTS (SELECT 1 FROM sitq.task t WHERE t.seq = p.seq)

-- name: prune_groups
DELETE FROM sitq.task_group g
WHERE g.parent = ANY(%(seqs)s::bigint[])
    AND NOT EXISTS (SELECT 1 FROM sitq.task t WHERE t.seq = g.parent)

-- name: ended_among
-- Of those who are waited for: which have ended, or are gone.
SELECT w.id FROM unnest(%(ids)s::uuid[]) AS w (id)
LEFT JOIN LATERAL (SELECT t.state FROM sitq.task t WHERE t.id = w.id) t ON true
WHERE t.state IS NULL OR t.state >= 2

-- name: new_worker
SELECT nextval(pg_get_serial_sequence('sitq.worker', 'id'))

-- name: hire
INSERT INTO sitq.worker (id, host, pid, queues, concurrency, lease, started, beat)
OVERRIDING SYSTEM VALUE VALUES (
    %(id)s, %(host)s, %(pid)s, %(queues)s::text[], %(concurrency)s, %(lease)s, {now},
    coalesce(to_timestamp(%(monotonic)s::float8), statement_timestamp())
)
ON CONFLICT (id) DO NOTHING

-- name: dismiss
-- Not while it holds tasks: they would be running with nobody to run them.
DELETE FROM sitq.worker w
WHERE w.id = %(worker)s
    AND NOT EXISTS (SELECT 1 FROM sitq.task t WHERE t.state = 1 AND t.worker = w.id)

-- name: has_lease
SELECT 1 FROM sitq.worker WHERE id = %(worker)s FOR KEY SHARE

-- name: clock
-- The time by which leases run: the server's, but for tests.
coalesce(to_timestamp(%(monotonic)s::float8), clock_timestamp())

-- name: beat
UPDATE sitq.worker
SET beat = {clock}, suspect = NULL, lag = coalesce(%(lag)s::float8, lag)
WHERE id = %(worker)s

-- name: lease_of
SELECT lease FROM sitq.worker WHERE id = %(worker)s

-- name: report
UPDATE sitq.worker SET stuck = %(stuck)s WHERE id = %(worker)s AND stuck <> %(stuck)s

-- name: workers
SELECT id, host, pid, queues, concurrency, lease, extract(epoch FROM started)::float8,
    greatest(0, extract(epoch FROM {clock} - beat))::float8, stuck, lag,
    (SELECT count(*) FROM sitq.task t WHERE t.state = 1 AND t.worker = w.id)
FROM sitq.worker w ORDER BY id

-- name: may_sweep
SELECT pg_try_advisory_xact_lock(%(lock)s)

-- name: others
SELECT id, lease, extract(epoch FROM beat)::float8, extract(epoch FROM suspect)::float8,
    extract(epoch FROM {clock})::float8
FROM sitq.worker WHERE id <> %(worker)s ORDER BY id

-- name: lock_dead
-- Who has just renewed its lease, or is doing that or taking tasks, lives.
SELECT id FROM sitq.worker WHERE id = ANY(%(workers)s::bigint[]) AND suspect IS NOT NULL
ORDER BY id FOR UPDATE SKIP LOCKED

-- name: suspect
UPDATE sitq.worker SET suspect = {clock} WHERE id = ANY(%(workers)s::bigint[])

-- name: held_by
-- Not locked, as those below: groups come before their children, and a settle looks again.
SELECT {its_run}, t.cancel FROM sitq.task t
WHERE t.state = 1 AND t.worker = %(worker)s ORDER BY t.seq

-- name: owners_without_lease
-- One seek for each of those that hold anything.
WITH RECURSIVE owners (worker) AS (
    SELECT min(worker) FROM sitq.task WHERE state = 1
    UNION ALL
    SELECT (SELECT min(t.worker) FROM sitq.task t WHERE t.state = 1 AND t.worker > o.worker)
    FROM owners o WHERE o.worker IS NOT NULL
)
SELECT o.worker FROM owners o
WHERE o.worker IS NOT NULL AND NOT EXISTS (SELECT 1 FROM sitq.worker w WHERE w.id = o.worker)

-- name: expired
SELECT {its_run} FROM sitq.task t
WHERE t.state = 0 AND t.deadline IS NOT NULL AND t.deadline <= {now}
LIMIT 500

-- name: forgotten
SELECT {its_run} FROM sitq.task t
WHERE t.state = 0 AND t.unknown_since IS NOT NULL
    AND t.unknown_since <= {now} - %(unknown_after)s::float8 * interval '1 second'
LIMIT 500

-- name: mark_unknown
UPDATE sitq.task SET unknown_since = {now} WHERE seq = ANY (ARRAY(
    SELECT t.seq FROM sitq.task t
    WHERE t.state = 0 AND t.unknown_since IS NULL AND t.name = ANY(%(names)s::text[])
        AND (%(queues)s::text[] IS NULL OR t.queue = ANY(%(queues)s::text[]))
    LIMIT 1000 FOR UPDATE SKIP LOCKED
))

-- name: clear_known
UPDATE sitq.task SET unknown_since = NULL WHERE seq = ANY (ARRAY(
    SELECT t.seq FROM sitq.task t
    WHERE t.state = 0 AND t.unknown_since IS NOT NULL AND t.name = ANY(%(names)s::text[])
        AND (%(queues)s::text[] IS NULL OR t.queue = ANY(%(queues)s::text[]))
    FOR UPDATE SKIP LOCKED
))
