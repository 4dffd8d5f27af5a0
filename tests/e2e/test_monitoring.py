"""The dashboard and the alerts against a real scrape: every metric, label and value that they name exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, Expr, MatchOp, VectorSelector

from event_stream.events.event import partition_of
from event_stream.streams.stream_keys import stream_key
from monitoring import catalogue
from tests.support.deployment import Deployment
from tests.support.events import PROJECT, TENANT, body, event
from tests.support.metrics_scrape import Scraped
from tests.support.servers import wait_until
from workers.runtime import redis_client

MONITORING = Path(__file__).parents[2] / "monitoring"
RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS = sorted({rule["expr"] for rule in RULES} | {target["expr"] for target in TARGETS})
pytestmark = pytest.mark.xdist_group("monitoring")  # one deployment for all


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A scrape of a deployment that has done some of each kind of work."""
    up = Deployment(tmp_path_factory.mktemp("monitoring") / "data")
    up.start()
    up.await_ready()
    key = up.run("keys", "create", "--tenant", TENANT).strip()
    made = [event("project.created.v1"), *(event("watchdog.evaluated.v1") for _ in range(20))]
    up.run("append", "--wait", "-", stdin="".join(json.dumps(each) + "\n" for each in made))
    redis = redis_client(up.variables()["REDIS_URL"])
    for _ in range(101):  # so many that their source is named
        redis.xadd(
            stream_key(partition_of(TENANT, 8)), {"event": body(event("analysis.created.v1", {"analysisId": 1}))}
        )
    assert up.get("/v1/config/projects/checkout-api/stats", key).status_code == 200
    assert up.get("/v1/config/monitoring/activity", key, X_Project_Id=PROJECT).status_code == 200
    assert up.get("/v1/config/projects/nonsense/stats").status_code == 401
    wait_until(lambda: up.get("/healthz/projector").status_code == 200, "all processes send heartbeats")
    ended = "projector_verify_finished_timestamp_seconds"
    wait_until(lambda: Scraped.of(up.get("/metrics").text)(ended) > 0, "the read models are verified")
    sources = "projector_dead_letter_source_entries"
    wait_until(lambda: sources in Scraped.of(up.get("/metrics").text).names(), "the source of dead letters is named")
    answer = up.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.status_code == 200
    for unspeakable in (key, key.rsplit("_", 1)[1], TENANT, PROJECT, "checkout-api", str(up.directory)):
        assert unspeakable not in answer.text
    yield Scraped.of(answer.text)
    up.remove()


def test_every_metric_of_the_table_is_scraped(scraped: Scraped) -> None:
    for measure in catalogue.METRICS:
        name = f"{measure.name}_bucket" if measure.kind == "histogram" else measure.name
        assert name in scraped.names()
        assert set(scraped.labels(name)) - {"le"} == set(measure.labels), name


def test_a_request_is_counted_by_route_and_status(scraped: Scraped) -> None:
    stats = "/v1/config/projects/{slug}/stats"
    assert scraped("projector_api_request_seconds_count", route=stats, status="200") == 1
    assert scraped("projector_api_request_seconds_count", route=stats, status="401") == 1
    assert scraped("projector_api_lookups_total", lookup="stats") == 1
    assert scraped("projector_api_queries_total", lookup="stats") == 1
    assert scraped("projector_processes", role="worker", state="alive") == 1


def test_the_read_models_are_verified_automatically(scraped: Scraped) -> None:
    assert scraped("projector_verify_finished_timestamp_seconds") > 0
    assert scraped("projector_verify_mismatched_rows") == scraped("projector_verify_log_errors") == 0


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_uses_only_scraped_metrics_and_labels(scraped: Scraped, expression: str) -> None:
    names: set[str] = set()
    known: dict[str, set[str]] = {}
    for selector in selectors(parsed(expression)):
        assert selector.name in scraped.names(), selector.name
        labels = scraped.labels(selector.name)
        for matcher in selector.matchers.matchers:
            assert any(_matches(matcher, value) for value in labels[matcher.name]), matcher
        names.add(selector.name)
        known |= labels
    assert names
    assert grouped_by(parsed(expression)) <= set(known)
    if any(name.endswith("_bucket") for name in names):
        assert "le" in grouped_by(parsed(expression))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_describes_the_problem_the_reason_and_the_action(rule: dict[str, Any]) -> None:
    assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "cause", "remedy"}
    for text in rule["annotations"].values():
        assert len(text) > 20
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= grouped_by(parsed(rule["expr"]))


def test_alerts_have_unique_names_and_panels_do_not_overlap() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


def test_metrics_of_the_whole_deployment_are_never_summed_over_api_processes() -> None:
    own = {measure.name for measure in catalogue.FROM_API_PROCESS}
    for expression in EXPRESSIONS:
        if not any(name in expression for name in own):
            assert re.match(r"((sum|count)\()?(min\()?max|histogram_quantile\([\d.]+, max|absent", expression), (
                expression
            )


@pytest.mark.parametrize(
    ("expression", "names", "labels"),
    [
        ('max by (role) (a{state="x"}) > 0', ["a"], {"role"}),
        ("sum(rate(a[5m])) / sum(rate(b[5m]))", ["a", "b"], set()),
        ("histogram_quantile(0.9, sum by (le, route) (rate(a_bucket[5m])))", ["a_bucket"], {"le", "route"}),
    ],
)
def test_the_expression_parser_finds_metrics_and_labels(expression: str, names: list[str], labels: set[str]) -> None:
    assert [selector.name for selector in selectors(parsed(expression))] == names
    assert grouped_by(parsed(expression)) == labels


def parsed(expression: str) -> Any:
    """Parse an expression; raises ValueError if it is not PromQL."""
    return promql_parser.parse(expression.replace("$__rate_interval", "5m"))


def nodes(expression: Expr) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(expression, found.append)
    return found


def selectors(expression: Expr) -> list[Any]:
    return [node for node in nodes(expression) if isinstance(node, VectorSelector)]


def grouped_by(expression: Expr) -> set[str]:
    modifiers = [node.modifier for node in nodes(expression) if isinstance(node, AggregateExpr)]
    return {label for modifier in modifiers if modifier is not None for label in modifier.labels}


def _matches(matcher: Any, value: str) -> bool:
    if matcher.op in (MatchOp.Re, MatchOp.NotRe):
        return bool(re.fullmatch(matcher.value, value)) or matcher.name == "status"  # no request has failed
    return bool(matcher.value == value)
