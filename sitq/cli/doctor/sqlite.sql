-- What is looked at in a file of sitq. Rows may have been written by a stranger: of what is no number
-- or text nothing is taken.

-- name: is_ours
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'sitq_meta'

-- name: version
SELECT value FROM sitq_meta WHERE name = 'version'

-- name: its_name
substr(CAST(name AS TEXT), 1, 255)

-- name: its_queue
substr(CAST(queue AS TEXT), 1, 255)

-- name: due
SELECT {its_queue}, count(*), min(run_at) FROM sitq_task
WHERE state = 0 AND run_at <= ? AND typeof(run_at) = 'real' GROUP BY queue ORDER BY 3 LIMIT 1000

-- name: unknown
SELECT {its_name}, count(*), min(unknown_since) FROM sitq_task
WHERE state = 0 AND unknown_since IS NOT NULL AND typeof(unknown_since) = 'real'
GROUP BY name ORDER BY 3 LIMIT 1000

-- name: orphans
SELECT count(*) FROM sitq_task
WHERE state = 1 AND (worker IS NULL OR worker NOT IN (SELECT id FROM sitq_worker))

-- name: latest
SELECT max(enqueued) FROM (SELECT enqueued FROM sitq_task ORDER BY seq DESC LIMIT 1000)
WHERE typeof(enqueued) = 'real'
