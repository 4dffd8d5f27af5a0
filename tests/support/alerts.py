"""Evaluates the expressions of the alert rules over two scrapes; hold times are ignored.

It supports what two scrapes can answer: comparisons and `or` of `max`, of a gauge, or of the increase between the two.
"""

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import promql_parser
import yaml
from promql_parser import AggregateExpr, BinaryExpr, Call, NumberLiteral, ParenExpr, VectorSelector

from tests.support.metrics_scrape import Scraped

RULES = [
    rule
    for group in yaml.safe_load((Path(__file__).parents[2] / "monitoring" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
Labels: TypeAlias = frozenset[tuple[str, str]]
Vector: TypeAlias = Mapping[Labels, float]
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
}


class UnsupportedExpressionError(Exception):
    """The expression needs more than two scrapes."""


def firing(before: Scraped, now: Scraped) -> set[str]:
    """Return the names of the alerts whose expression has a result."""
    found = set()
    for rule in RULES:
        try:
            if _value(promql_parser.parse(rule["expr"]), before, now):
                found.add(rule["alert"])
        except UnsupportedExpressionError:
            continue
    return found


def _value(expression: Any, before: Scraped, now: Scraped) -> Vector:
    match expression:
        case ParenExpr():
            return _value(expression.expr, before, now)
        case VectorSelector():
            return _selected(expression, now)
        case AggregateExpr() if str(expression.op) == "max":
            return _greatest(expression, _value(expression.expr, before, now))
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


def _greatest(expression: Any, vector: Vector) -> Vector:
    by = set(expression.modifier.labels) if expression.modifier else set()
    groups: dict[Labels, float] = {}
    for labels, value in vector.items():
        group = frozenset(pair for pair in labels if pair[0] in by)
        groups[group] = max(value, groups.get(group, value))
    return groups
