-- Groups of tasks that end together, and what stands below a task. Parts in braces without a name
-- here stand in `queries.sql`.

-- name: parent_of
-- Who opened a group, as it stands now.
SELECT g.cancelled, g.owner IS NOT NULL, p.state, p.fence, p.cancel
FROM sitq_group g LEFT JOIN sitq_task p ON p.seq = g.parent WHERE g.id = ?

-- name: is_run
SELECT 1 FROM sitq_task WHERE seq = ? AND fence = ? AND state = 1

-- name: has_failed
-- A child of this generation.
EXISTS (SELECT 1 FROM sitq_task WHERE group_id = sitq_group.id AND change > 0 AND state = 3
    AND born = generation)

-- name: open_group
-- A run that cancelled the group and did not bring that home is as if it had not done so, unless it was
-- for a child that failed: then the next run is to fail as well.
INSERT INTO sitq_group (parent, ordinal, epoch, deadline) VALUES (?, ?, ?, ?)
ON CONFLICT (parent, ordinal) WHERE parent IS NOT NULL DO UPDATE SET
    deadline = CASE WHEN epoch = excluded.epoch THEN deadline ELSE excluded.deadline END,
    generation = generation + (epoch <> excluded.epoch OR cancelled AND NOT {has_failed}),
    cancelled = epoch = excluded.epoch AND cancelled AND {has_failed},
    epoch = excluded.epoch
RETURNING id, deadline, generation

-- name: open_own_group
INSERT INTO sitq_group (owner, deadline, detach) VALUES (?, ?, ?)

-- name: close_group
DELETE FROM sitq_group WHERE id = ? AND owner IS NOT NULL

-- name: close_groups
-- One that was opened for a caller who was gone is nobody's.
DELETE FROM sitq_group WHERE owner = ?

-- name: mark_cancelled
UPDATE sitq_group SET cancelled = 1 WHERE id = ?

-- name: has_children
SELECT EXISTS (SELECT 1 FROM sitq_task WHERE group_id = ?)

-- name: children
-- Those of these names, the youngest of each name last.
SELECT child, {its_id}, state, born, digest FROM sitq_task
WHERE group_id = ? AND child IN (SELECT value FROM json_each(?)) ORDER BY born

-- name: renew_child
-- One that lives, and was enqueued in an earlier generation, is of this one.
UPDATE sitq_task SET born = ? WHERE id = ? AND born < ?1

-- name: asked_children
SELECT seq FROM sitq_task WHERE group_id = ? AND change IS NULL AND cancel = 1

-- name: new_child_columns
{new_columns}, group_id, child, born, digest

-- name: insert_children
WITH v ({new_child_columns}) AS
    (VALUES {values})
INSERT INTO sitq_task
    ({new_child_columns})
SELECT * FROM v WHERE id IS NOT NULL

-- name: insert_keyed_child
INSERT INTO sitq_task
    ({new_child_columns})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) WHERE key IS NOT NULL AND state < 2 DO NOTHING

-- name: is_child
SELECT 1 FROM sitq_task WHERE group_id = ? AND id = ?

-- name: ended_children
-- Without those of an earlier generation that did not succeed: others were enqueued in their place.
SELECT change, {its_id}, child, state, {its_value}
FROM sitq_task WHERE group_id = ?2 AND change > ?3 AND (state = 2 OR born >= ?4)
ORDER BY change LIMIT 1000

-- name: has_live_children
SELECT EXISTS (SELECT 1 FROM sitq_task WHERE group_id = ? AND change IS NULL)

-- name: live_children
SELECT seq, state FROM sitq_task WHERE group_id = ? AND change IS NULL

-- name: live_below
-- Every live task under these: below a task that has ended there is none.
WITH RECURSIVE below (seq) AS (
    SELECT c.seq FROM json_each(?) t
    JOIN sitq_group g ON g.parent = t.value
    JOIN sitq_task c ON c.group_id = g.id AND c.change IS NULL
    UNION
    SELECT c.seq FROM below
    JOIN sitq_group g ON g.parent = below.seq
    JOIN sitq_task c ON c.group_id = g.id AND c.change IS NULL
)
SELECT seq FROM below

-- name: cancel_all
UPDATE OR IGNORE sitq_task SET
    state = 4, cancel = 1, fence = fence + 1, worker = NULL, unknown_since = NULL,
    ended = ?1, change = v.change
FROM (SELECT value AS its_seq, ?2 + 1 + key AS change FROM json_each(?3)) v
WHERE sitq_task.seq = v.its_seq AND sitq_task.state < 2

-- name: spare_parents
-- What happened under a task was no fault of it, if a child of it came to an end since.
UPDATE OR IGNORE sitq_task SET crashes = 0
WHERE state < 2 AND crashes > 0 AND seq IN (
    SELECT g.parent FROM json_each(?) e
    JOIN sitq_task c ON c.seq = e.value JOIN sitq_group g ON g.id = c.group_id
)

-- name: owned_groups
SELECT id, detach FROM sitq_group WHERE owner = ?

-- name: group_is_open
-- Whether a task may come back to life in its group: it is open, and no other is in its place.
SELECT group_id IS NULL OR (NOT {is_free} AND NOT EXISTS (
    SELECT 1 FROM sitq_task y WHERE y.group_id = sitq_task.group_id AND y.child = sitq_task.child
    AND y.born > sitq_task.born
))
FROM sitq_task WHERE seq = ?

-- name: tree
WITH RECURSIVE tree (its_seq, parent) AS (
    SELECT seq, NULL FROM sitq_task WHERE id = ?2
    UNION ALL
    SELECT c.seq, tree.its_seq FROM tree
    JOIN sitq_group g ON g.parent = tree.its_seq
    JOIN sitq_task c ON c.group_id = g.id
    LIMIT ?3
)
SELECT tree.parent, {its_row} FROM tree JOIN sitq_task ON sitq_task.seq = tree.its_seq {told}
