"""SQL that fills the event log and the read models of a benchmark database."""

# Only for the session that fills a database. Measured sessions have the defaults.
BULK_SETTINGS = "SET work_mem = '256MB'; SET maintenance_work_mem = '512MB'; SET synchronous_commit = off"

# The first events create the projects. Of 20 others, ten are evaluations, six analyses, two change log sources and two
# switch the watchdog. The share `hot` of them belongs to the first project. Ids are random UUIDs, as usual.
EVENT_LOG = """
INSERT INTO event_log
SELECT tenant_id, event_id, partition, number, type, project_id, time_us, convert_to(json_build_object(
    'specversion', '1.0', 'id', event_id, 'source', '/bench', 'type', type,
    'time', to_char(to_timestamp(time_us / 1e6) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    'tenantid', tenant_id, 'projectid', project_id, 'data', CASE type
        WHEN 'project.created.v1' THEN json_build_object(
            'slug', 'project-' || project, 'name', 'Project ' || project, 'isDefault', false)
        WHEN 'watchdog.evaluated.v1' THEN json_build_object(
            'ruleId', 'wdg_' || number % 9, 'ruleName', 'Checkout error spike', 'passed', false, 'alertFired', true,
            'suppressedReason', null, 'severity', 'high', 'summary', 'Error count is 4.1x the recent baseline')
        WHEN 'analysis.created.v1' THEN json_build_object('analysisId', 'ana_' || number, 'trigger', 'api')
        WHEN 'watchdog.toggled.v1' THEN json_build_object('enabled', number % 40 = 0)
        ELSE json_build_object('logSourceId', 'log_' || number % 7) END
)::text, 'UTF8')
FROM (
    SELECT 'ten_' || project % {tenants} AS tenant_id, gen_random_uuid()::text AS event_id, 0 AS partition, number,
        project, ('00000000-0000-4000-8000-' || lpad(to_hex(project), 12, '0')) AS project_id,
        CASE WHEN number <= {projects} THEN 'project.created.v1'
            WHEN number % 20 < 10 THEN 'watchdog.evaluated.v1'
            WHEN number % 20 < 16 THEN 'analysis.created.v1'
            WHEN number % 20 = 16 THEN 'log_source.removed.v1'
            WHEN number % 20 = 17 THEN 'log_source.added.v1'
            ELSE 'watchdog.toggled.v1' END AS type,
        ({now_us} - 1000000 * (CASE WHEN number <= {projects} THEN 3000000 ELSE floor(random() * 2500000) END))::bigint
            AS time_us
    FROM (
        SELECT number, CASE WHEN number <= {projects} THEN number - 1
            WHEN random() < {hot} THEN 0 ELSE floor(random() * {projects})::int END AS project
        FROM generate_series(1, {events}) AS number
    ) AS of_project
) AS made
"""
READ_MODELS = [
    """
    INSERT INTO tenant SELECT DISTINCT tenant_id, 0, '{{}}', NULL::bigint, -1, '', 0, 0 FROM event_log
    """,
    """
    INSERT INTO analysis_trend SELECT tenant_id, project_id, sum(analyses),
        '[' || string_agg('[' || day || ',' || analyses || ']', ',' ORDER BY day) || ']', '[]', 0, 0
    FROM (SELECT tenant_id, project_id, time_us / 86400000000 AS day, count(*) AS analyses FROM event_log
        WHERE type = 'analysis.created.v1' GROUP BY 1, 2, 3) AS by_day
    GROUP BY tenant_id, project_id
    """,
    """
    INSERT INTO activity SELECT tenant_id, project_id, newest.time_us, event_id,
        json_build_object('timestamp', convert_from(body, 'UTF8')::json ->> 'time')::jsonb
            || (convert_from(body, 'UTF8')::json -> 'data')::jsonb
    FROM (SELECT tenant_id, project_id, time_us, event_id, row_number() OVER (
            PARTITION BY tenant_id, project_id ORDER BY time_us DESC, event_id DESC) AS place
        FROM event_log WHERE type = 'watchdog.evaluated.v1') AS newest
    JOIN event_log USING (tenant_id, event_id, project_id)
    WHERE place <= 100
    """,
    """
    WITH data AS (SELECT *, convert_from(body, 'UTF8')::json -> 'data' AS data FROM event_log
        WHERE type <> 'watchdog.evaluated.v1' AND type <> 'analysis.created.v1'),
    created AS (SELECT * FROM data WHERE type = 'project.created.v1'),
    watchdog AS (SELECT DISTINCT ON (tenant_id, project_id) * FROM data WHERE type = 'watchdog.toggled.v1'
        ORDER BY tenant_id, project_id, time_us DESC, event_id DESC),
    member AS (SELECT DISTINCT ON (tenant_id, project_id, data ->> 'logSourceId') *, data ->> 'logSourceId' AS id
        FROM data WHERE type LIKE 'log_source.%'
        ORDER BY tenant_id, project_id, data ->> 'logSourceId', time_us DESC, event_id DESC),
    members AS (SELECT tenant_id, project_id, count(*) FILTER (WHERE type = 'log_source.added.v1') AS present,
        json_object_agg(id, json_build_array(type = 'log_source.added.v1', time_us, event_id))::text AS ids
        FROM member GROUP BY 1, 2)
    INSERT INTO project SELECT c.tenant_id, c.project_id, true, c.time_us, c.event_id, c.data ->> 'slug', c.time_us,
        c.event_id, c.data ->> 'name', c.time_us, c.event_id, coalesce((w.data ->> 'enabled')::bool, false),
        coalesce(w.time_us, -1), coalesce(w.event_id, ''), coalesce(m.present, 0), coalesce(m.ids, '{{}}'),
        0, '{{}}', 0, '{{}}', 0, 0
    FROM created c LEFT JOIN watchdog w USING (tenant_id, project_id) LEFT JOIN members m USING (tenant_id, project_id)
    """,
]
