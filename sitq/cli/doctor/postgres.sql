-- What is looked at in a schema of sitq, and in the server around it.

-- name: version
SELECT value FROM sitq.meta WHERE name = 'version'

-- name: has_tables
SELECT EXISTS (
    SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = 'meta'
)

-- name: now
SELECT extract(epoch FROM clock_timestamp())::float8

-- name: only_reads
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean

-- name: lacking
-- The rights that this role does not have, and needs.
SELECT format('%%s on %%s', w.rights, c.relname)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT 'SELECT' AS rights WHERE c.relkind = 'r'
    UNION ALL SELECT r FROM unnest(ARRAY['INSERT', 'UPDATE', 'DELETE']) r
    WHERE c.relkind = 'r' AND c.relname <> 'meta'
    UNION ALL SELECT 'USAGE' WHERE c.relkind = 'S'
) w
WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'S') AND NOT CASE c.relkind
    WHEN 'r' THEN has_table_privilege(c.oid, w.rights)
    ELSE has_sequence_privilege(c.oid, w.rights)
END
ORDER BY 1

-- name: dead_rows
SELECT relname, n_live_tup, n_dead_tup,
    extract(epoch FROM clock_timestamp() - greatest(last_autovacuum, last_vacuum))::float8
FROM pg_catalog.pg_stat_user_tables WHERE schemaname = %(schema)s ORDER BY relname

-- name: autovacuum
SELECT current_setting('autovacuum')::boolean

-- name: long_transactions
-- What keeps dead rows from being removed. Of other roles one sees little without pg_monitor.
SELECT format('process %%s (%%s)', pid, coalesce(nullif(application_name, ''), usename, '?')),
    extract(epoch FROM clock_timestamp() - xact_start)::float8
FROM pg_catalog.pg_stat_activity
WHERE xact_start < clock_timestamp() - %(long)s * interval '1 second'
    AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    AND datname = current_database()
UNION ALL
SELECT format('prepared transaction %%s', gid),
    extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_catalog.pg_prepared_xacts
WHERE prepared < clock_timestamp() - %(long)s * interval '1 second'
    AND database = current_database()
ORDER BY 2 DESC LIMIT 20

-- name: connections
SELECT count(*), current_setting('max_connections')::bigint
FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'

-- name: due
SELECT queue, count(*), extract(epoch FROM min(run_at))::float8 FROM sitq.task
WHERE state = 0 AND run_at <= to_timestamp(%(now)s) GROUP BY queue ORDER BY 3 LIMIT 1000

-- name: unknown
SELECT name, count(*), extract(epoch FROM min(unknown_since))::float8 FROM sitq.task
WHERE state = 0 AND unknown_since IS NOT NULL GROUP BY name ORDER BY 3 LIMIT 1000

-- name: orphans
SELECT count(*) FROM sitq.task t
WHERE t.state = 1 AND NOT EXISTS (SELECT 1 FROM sitq.worker w WHERE w.id = t.worker)

-- name: latest
SELECT extract(epoch FROM max(enqueued))::float8
FROM (SELECT enqueued FROM sitq.task ORDER BY seq DESC LIMIT 1000) newest
