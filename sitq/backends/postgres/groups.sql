-- Groups of tasks that end together, and what stands below a task. Parts in braces without a name
-- here stand in `queries.sql`.

-- name: share_group
-- It is not closed, and not cancelled, until the transaction ends.
SELECT g.cancelled, g.owner IS NOT NULL FROM sitq.task_group g WHERE g.id = %(group)s
FOR KEY SHARE

-- name: lock_group
-- Nobody enqueues in it until the transaction ends.
SELECT g.cancelled, g.owner IS NOT NULL FROM sitq.task_group g WHERE g.id = %(group)s FOR UPDATE

-- name: parent
-- It stays in this state until the transaction ends.
SELECT p.state, p.fence, p.cancel FROM sitq.task p WHERE p.seq = %(parent)s FOR SHARE

-- name: is_run
SELECT 1 FROM sitq.task WHERE seq = %(parent)s AND fence = %(fence)s AND state = 1 FOR SHARE

-- name: has_failed
-- A child of this generation.
EXISTS (SELECT 1 FROM sitq.task c WHERE c.group_id = g.id AND c.change > 0 AND c.state = 3
    AND c.born = g.generation)

-- name: open_group
-- A run that cancelled the group and did not bring that home is as if it had not done so, unless it was
-- for a child that failed: then the next run is to fail as well.
INSERT INTO sitq.task_group AS g (parent, ordinal, epoch, deadline)
VALUES (%(parent)s, %(ordinal)s, %(epoch)s, to_timestamp(%(deadline)s::float8))
ON CONFLICT (parent, ordinal) WHERE parent IS NOT NULL DO UPDATE SET
    deadline = CASE WHEN g.epoch = excluded.epoch THEN g.deadline ELSE excluded.deadline END,
    generation = g.generation
        + (g.epoch <> excluded.epoch OR g.cancelled AND NOT {has_failed})::integer,
    cancelled = g.epoch = excluded.epoch AND g.cancelled AND {has_failed},
    epoch = excluded.epoch
RETURNING g.id, extract(epoch FROM g.deadline)::float8, g.generation

-- name: open_own_group
INSERT INTO sitq.task_group (owner, deadline, detach)
VALUES (%(owner)s, to_timestamp(%(deadline)s::float8), %(detach)s) RETURNING id

-- name: close_group
DELETE FROM sitq.task_group WHERE id = %(group)s AND owner IS NOT NULL

-- name: close_groups
-- One that was opened for a caller who was gone is nobody's.
DELETE FROM sitq.task_group WHERE owner = %(owner)s

-- name: mark_cancelled
UPDATE sitq.task_group SET cancelled = true WHERE id = %(group)s

-- name: children
-- Those of these names, the youngest of each name last.
SELECT child, id, state, born, digest FROM sitq.task
WHERE group_id = %(group)s AND child = ANY(%(children)s::text[]) ORDER BY born

-- name: renew_children
-- Those that live, and were enqueued in an earlier generation, are of this one.
UPDATE sitq.task SET born = %(generation)s
WHERE id = ANY(%(ids)s::uuid[]) AND born < %(generation)s

-- name: asked_children
SELECT seq FROM sitq.task WHERE group_id = %(group)s AND change IS NULL AND cancel

-- name: new_members
unnest(%(children)s::text[], %(digests)s::bytea[]) WITH ORDINALITY AS m (child, digest, place)

-- name: new_children
INSERT INTO sitq.task (seq, {new_columns}, group_id, child, born, digest)
SELECT v.seq, {new_values}, %(group)s, v.child, %(generation)s, v.digest FROM (
    SELECT nextval('sitq.enqueued') AS seq, v.* FROM (
        SELECT v.*, m.child, m.digest FROM {new_rows} JOIN {new_members} ON m.place = v.place
        ORDER BY v.place
    ) v
) v
ORDER BY v.key NULLS FIRST, v.place

-- name: insert_children
{new_children} ON CONFLICT (key) WHERE key IS NOT NULL AND state < 2 DO NOTHING RETURNING id, seq

-- name: insert_children_again
-- Its first answer was lost: all of them are there, or none.
{new_children} ON CONFLICT DO NOTHING RETURNING id, seq

-- name: ended_children
-- Without those of an earlier generation that did not succeed: others were enqueued in their place.
SELECT t.change, t.id, t.child, t.state, {its_value}
FROM sitq.task t
WHERE t.group_id = %(group)s AND t.change > %(after)s
    AND (t.state = 2 OR t.born >= %(generation)s)
ORDER BY t.change LIMIT 1000

-- name: ended_in
-- In which of these groups somebody has ended since.
SELECT w.id, w.after FROM unnest(%(groups)s::bigint[], %(afters)s::bigint[]) AS w (id, after)
WHERE (
    SELECT t.seq FROM sitq.task t WHERE t.group_id = w.id AND t.change > w.after
    ORDER BY t.change LIMIT 1
) IS NOT NULL

-- name: has_live_children
SELECT EXISTS (SELECT 1 FROM sitq.task WHERE group_id = %(group)s AND change IS NULL)

-- name: live_children
SELECT seq, state FROM sitq.task WHERE group_id = %(group)s AND change IS NULL
ORDER BY seq FOR NO KEY UPDATE

-- name: live_below
-- Every live task under these: below a task that has ended there is none.
WITH RECURSIVE below (seq) AS (
    SELECT c.seq FROM sitq.task_group g
    JOIN sitq.task c ON c.group_id = g.id AND c.change IS NULL
    WHERE g.parent = ANY(%(seqs)s::bigint[])
    UNION
    SELECT c.seq FROM below b
    JOIN sitq.task_group g ON g.parent = b.seq
    JOIN sitq.task c ON c.group_id = g.id AND c.change IS NULL
)
SELECT seq FROM below ORDER BY seq

-- name: cancel_all
UPDATE sitq.task t SET
    state = 4, cancel = true, fence = t.fence + 1, worker = NULL, batch = NULL,
    unknown_since = NULL, ended = {now}, change = nextval('sitq.ended')
WHERE t.seq = ANY(%(seqs)s::bigint[]) AND t.state < 2

-- name: spare_parents
-- What happened under a task was no fault of it, if a child of it came to an end since.
UPDATE sitq.task SET crashes = 0
WHERE state < 2 AND crashes > 0 AND seq IN (
    SELECT g.parent FROM sitq.task c JOIN sitq.task_group g ON g.id = c.group_id
    WHERE c.seq = ANY(%(seqs)s::bigint[])
)

-- name: owned_groups
SELECT id, detach FROM sitq.task_group WHERE owner = %(owner)s ORDER BY id FOR UPDATE

-- name: lock_its_group
-- Before the task itself, as everybody does.
SELECT g.id FROM sitq.task c JOIN sitq.task_group g ON g.id = c.group_id
WHERE c.id = %(id)s::uuid FOR NO KEY UPDATE OF g

-- name: share_its_parent
SELECT p.seq FROM sitq.task c
JOIN sitq.task_group g ON g.id = c.group_id JOIN sitq.task p ON p.seq = g.parent
WHERE c.id = %(id)s::uuid FOR SHARE OF p FOR KEY SHARE OF g

-- name: group_is_open
-- Whether a task may come back to life in its group: it is open, and no other is in its place.
SELECT t.group_id IS NULL OR (NOT {is_free} AND NOT EXISTS (
    SELECT 1 FROM sitq.task y WHERE y.group_id = t.group_id AND y.child = t.child
    AND y.born > t.born
))
FROM sitq.task t WHERE t.seq = %(seq)s

-- name: tree
WITH RECURSIVE tree (seq, parent) AS (
    SELECT seq, NULL::bigint FROM sitq.task WHERE id = %(id)s::uuid
    UNION ALL
    SELECT c.seq, tree.seq FROM tree
    JOIN sitq.task_group g ON g.parent = tree.seq
    JOIN sitq.task c ON c.group_id = g.id
)
SELECT tree.parent, {its_row}
FROM (SELECT * FROM tree LIMIT %(limit)s::integer) tree
JOIN sitq.task t ON t.seq = tree.seq {told}
