"""Makes databases with a history, by SQL alone: a log of any length, and the read models that belong to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import psycopg

from benchmarks.mixes import TENANTS
from benchmarks.place import Place, migrate
from projections.read_models.registry import PROJECTIONS
from projections.transaction import projection_version

_numbers = count(1)

# Of the session that fills a database; what is measured runs with the defaults.
_IN_BULK = "SET work_mem = '256MB'; SET maintenance_work_mem = '512MB'; SET synchronous_commit = off"

# Of 20 events ten are evaluations, six analyses, two of log sources, two of the watchdog; the first events of the
# history create the projects. `hot` of all events are of the first project. Ids are random, as producers' are.
_LOG = """
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
_READ_MODELS = [
    """
    INSERT INTO tenant SELECT DISTINCT tenant_id, 0, '{{}}', 0, 0 FROM event_log
    """,
    """
    INSERT INTO analysis_trend SELECT tenant_id, project_id, sum(analyses),
        '[' || string_agg('[' || day || ',' || analyses || ']', ',' ORDER BY day) || ']', 0, 0
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


@dataclass(frozen=True, slots=True)
class History:
    """A log of so many events over so many projects; a share `hot` of them is of the first one."""

    events: int
    projects: int
    hot: float = 0.0

    def tenant(self, project: int) -> str:
        """Return the tenant of a project, given by its number from 0."""
        return f"ten_{project % TENANTS}"

    def project_id(self, project: int) -> str:
        """Return the id of a project."""
        return f"00000000-0000-4000-8000-{project:012x}"


@contextmanager
def log_only(place: Place, history: History) -> Iterator[str]:
    """Make a database whose log is full and whose read models are empty; yields its name, to be a template."""
    name = f"history_{next(_numbers)}"
    place.postgres.execute(f"CREATE DATABASE {name}")
    try:
        migrate(place.postgres.url(name))
        with psycopg.connect(place.postgres.url(name), autocommit=True) as connection:
            _fill_log(connection, history)
        yield name
    finally:
        place.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def with_read_models(place: Place, history: History) -> Iterator[str]:
    """Make a database with a log and the read models that belong to it; yields its URL."""
    with log_only(place, history) as name:
        url = place.postgres.url(name)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_IN_BULK)
            for statement in _READ_MODELS:
                connection.execute(statement.format().encode())
            connection.execute("VACUUM ANALYZE")
        yield url


def _fill_log(connection: psycopg.Connection, history: History) -> None:
    """Write the log without its keys, and build those afterwards: for millions of rows it is far quicker."""
    connection.execute(_IN_BULK)
    connection.execute("ALTER TABLE event_log DROP CONSTRAINT event_log_pkey")
    connection.execute("DROP INDEX event_log_by_number")
    text = _LOG.format(
        tenants=TENANTS,
        projects=history.projects,
        hot=history.hot,
        events=history.events,
        now_us="extract(epoch FROM date_trunc('second', now()))::bigint * 1000000",
    )
    connection.execute(text.encode())
    connection.execute("ALTER TABLE event_log ADD PRIMARY KEY (tenant_id, event_id)")
    connection.execute("CREATE UNIQUE INDEX event_log_by_number ON event_log (partition, number)")
    line = projection_version.dump(projection_version.current(PROJECTIONS))
    connection.execute("INSERT INTO projection_version SELECT DISTINCT tenant_id, %s FROM event_log", (line,))
    # As if a stream that is gone had brought them: what is drained now is numbered behind them.
    connection.execute(
        "UPDATE checkpoint SET read = %(events)s, applied = %(events)s, added_offset = %(events)s WHERE partition = 0",
        {"events": history.events},
    )
    connection.execute("VACUUM ANALYZE event_log")
