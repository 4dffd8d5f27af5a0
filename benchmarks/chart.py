"""The chart of a run: an SVG that shows how far each goal was exceeded or missed."""

from collections.abc import Sequence
from html import escape
from math import log2

from benchmarks.results import GoalResult, Result

_LINE, _LEFT, _RIGHT, _TOP = 26, 480, 250, 48
_OCTAVE = 60  # width of a factor of two
_OCTAVES_SHOWN = 3.0  # on either side of a goal
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.small{font-size:11px;fill:#777}.met{fill:#2a9d5c}"
    ".missed{fill:#d1495b}.goal{stroke:#333;stroke-width:1.5}.grid{stroke:#ddd}"
)


def draw_chart(results: Sequence[Result], caption: str) -> str:
    """Return an SVG with a bar for each goal: to the right if it is met, with a grid line for each factor of two."""
    bars = [(result.row.name, each) for result in results for each in result.goal_results()]
    middle = _LEFT + _OCTAVES_SHOWN * _OCTAVE
    width, bottom = middle + _OCTAVES_SHOWN * _OCTAVE + _RIGHT, _TOP + _LINE * len(bars)
    octaves = range(-int(_OCTAVES_SHOWN), int(_OCTAVES_SHOWN) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {bottom + 34}" role="img">',
        f"<title>Benchmark: each goal and what was measured</title><style>{_STYLE}</style>",
        f'<rect width="{width:.0f}" height="{bottom + 34}" fill="#fff"/>',
        *(_grid_line(middle + octave * _OCTAVE, octave, bottom) for octave in octaves),
        *(_bar(middle, _TOP + _LINE * number, *each) for number, each in enumerate(bars)),
        f'<text class="small" x="12" y="{bottom + 22}">{escape(caption)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def goal_factor(each: GoalResult) -> float:
    """Return the factor by which a goal is exceeded; below 1 it is missed."""
    goal = each.goal
    if goal.at_least is not None:
        return each.value / goal.at_least
    assert goal.at_most is not None
    return goal.at_most / each.value


def _grid_line(x: float, octave: int, bottom: int) -> str:
    label = "the goal" if octave == 0 else f"{2.0**octave:g}×"
    kind = "goal" if octave == 0 else "grid"
    line = f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 12}" y2="{bottom}"/>'
    return f'{line}<text class="small" x="{x:.1f}" y="{_TOP - 20}" text-anchor="middle">{label}</text>'


def _bar(middle: float, y: float, name: str, each: GoalResult) -> str:
    octaves = max(-_OCTAVES_SHOWN, min(_OCTAVES_SHOWN, log2(goal_factor(each))))
    x, width = middle + min(0.0, octaves) * _OCTAVE, abs(octaves) * _OCTAVE
    goal = each.goal
    label = f"{name}: {goal.contestant}" + (f" / {goal.reference}" if goal.reference else "") + f", {goal.figure}"
    value = f"{each.value:.3g}{' ×' if goal.reference else ''}  (goal {goal.wanted})"
    end = middle + _OCTAVES_SHOWN * _OCTAVE + 10
    return (
        f'<text x="{_LEFT - 10}" y="{y + 13:.0f}" text-anchor="end">{escape(label)}</text>'
        f'<rect class="{"met" if each.met else "missed"}" x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="18"/>'
        f'<text x="{end:.0f}" y="{y + 13:.0f}">{escape(value)}</text>'
    )
