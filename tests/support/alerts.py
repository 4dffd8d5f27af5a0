"""Evaluates the expressions of the alert rules over two scrapes, and the inhibition rules; hold times are ignored.

It supports what two scrapes can answer: comparisons and `or` of `max`, `sum` and `count`, of a gauge, or of the increase
between the two.
"""

import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import promql_parser
import yaml
from promql_parser import AggregateExpr, BinaryExpr, Call, NumberLiteral, ParenExpr, VectorSelector

from tests.support.metrics_scrape import Scraped

MONITORING = Path(__file__).parents[2] / "monitoring"
RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
INHIBIT_RULES = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())["inhibit_rules"]
Labels: TypeAlias = frozenset[tuple[str, str]]
Vector: TypeAlias = Mapping[Labels, float]
Alert: TypeAlias = Mapping[str, str]
"""The labels of a firing alert."""
AGGREGATE: dict[str, Callable[[list[float]], float]] = {"max": max, "sum": sum, "count": len}
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
}


class UnsupportedExpressionError(Exception):
    """The expression needs more than two scrapes."""


def firing(before: Scraped, now: Scraped) -> list[Alert]:
    """Return an alert for each result of each expression."""
    found: list[Alert] = []
    for rule in RULES:
        try:
            results = _value(promql_parser.parse(rule["expr"]), before, now)
        except UnsupportedExpressionError:
            continue
        found += [{**dict(labels), **rule["labels"], "alertname": rule["alert"]} for labels in results]
    return found


def notified(alerts: list[Alert]) -> list[Alert]:
    """Return the alerts that no other one inhibits, by the rules of Alertmanager for rules without `equal`."""
    return [alert for alert in alerts if not any(_inhibits(rule, alert, alerts) for rule in INHIBIT_RULES)]


def _inhibits(rule: Mapping[str, Any], target: Alert, alerts: list[Alert]) -> bool:
    assert set(rule) == {"source_matchers", "target_matchers"}
    if not _matches(rule["target_matchers"], target):
        return False
    # An alert that matches both sides is not inhibited by another such alert.
    is_source = _matches(rule["source_matchers"], target)
    return any(
        _matches(rule["source_matchers"], source) and not (is_source and _matches(rule["target_matchers"], source))
        for source in alerts
    )


def _matches(matchers: list[str], alert: Alert) -> bool:
    for matcher in matchers:
        parsed = re.fullmatch(r'(\w+)(=~?)"(.*)"', matcher)
        assert parsed is not None, matcher
        name, kind, value = parsed.groups()
        pattern = value if kind == "=~" else re.escape(value)
        if not re.fullmatch(pattern, alert.get(name, "")):
            return False
    return True


def _value(expression: Any, before: Scraped, now: Scraped) -> Vector:
    match expression:
        case ParenExpr():
            return _value(expression.expr, before, now)
        case VectorSelector():
            return _selected(expression, now)
        case AggregateExpr() if str(expression.op) in AGGREGATE:
            aggregate = AGGREGATE[str(expression.op)]
            return _aggregated(expression, _value(expression.expr, before, now), aggregate)
        case Call() if expression.func.name == "increase":
            (over,) = expression.args
            earlier = _selected(over.vector_selector, before)
            return {key: value - earlier.get(key, value) for key, value in _selected(over.vector_selector, now).items()}
        case BinaryExpr() if str(expression.op) == "or":
            left = _value(expression.lhs, before, now)
            return {**_value(expression.rhs, before, now), **left}
        case BinaryExpr() if str(expression.op) in COMPARE and isinstance(expression.rhs, NumberLiteral):
            holds, bound = COMPARE[str(expression.op)], expression.rhs.val
            return {key: v for key, v in _value(expression.lhs, before, now).items() if holds(v, bound)}
        case _:
            raise UnsupportedExpressionError(str(expression))


def _selected(selector: Any, scraped: Scraped) -> Vector:
    wanted = {(matcher.name, matcher.value) for matcher in selector.matchers.matchers}
    return {key: value for (name, key), value in scraped.samples.items() if name == selector.name and wanted <= key}


def _aggregated(expression: Any, vector: Vector, function: Callable[[list[float]], float]) -> Vector:
    by = set(expression.modifier.labels) if expression.modifier else set()
    groups: dict[Labels, list[float]] = {}
    for labels, value in vector.items():
        groups.setdefault(frozenset(pair for pair in labels if pair[0] in by), []).append(value)
    return {labels: function(values) for labels, values in groups.items()}
