"""The picture: for each goal how far beyond it or short of it, as an SVG made by hand."""

from collections.abc import Sequence
from html import escape
from math import log2

from benchmarks.results import Judged, Result

_LINE, _LEFT, _RIGHT, _TOP = 26, 480, 250, 48
_OCTAVE = 60  # a factor of two
_REACH = 3.0  # octaves shown on either side of a goal
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.small{font-size:11px;fill:#777}.met{fill:#2a9d5c}"
    ".missed{fill:#d1495b}.goal{stroke:#333;stroke-width:1.5}.grid{stroke:#ddd}"
)


def draw(results: Sequence[Result], caption: str) -> str:
    """Return an SVG with a bar for each goal: right of the line it is met, each grid line is a factor of two."""
    judged = [(result.row.name, each) for result in results for each in result.judged()]
    middle = _LEFT + _REACH * _OCTAVE
    width, bottom = middle + _REACH * _OCTAVE + _RIGHT, _TOP + _LINE * len(judged)
    octaves = range(-int(_REACH), int(_REACH) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {bottom + 34}" role="img">',
        f"<title>Benchmark: each goal and what was measured</title><style>{_STYLE}</style>",
        f'<rect width="{width:.0f}" height="{bottom + 34}" fill="#fff"/>',
        *(_grid_line(middle + octave * _OCTAVE, octave, bottom) for octave in octaves),
        *(_bar(middle, _TOP + _LINE * number, *each) for number, each in enumerate(judged)),
        f'<text class="small" x="12" y="{bottom + 22}">{escape(caption)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def beyond(each: Judged) -> float:
    """Return by which factor a goal is surpassed; below 1 it is missed."""
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


def _bar(middle: float, y: float, name: str, each: Judged) -> str:
    octaves = max(-_REACH, min(_REACH, log2(beyond(each))))
    x, width = middle + min(0.0, octaves) * _OCTAVE, abs(octaves) * _OCTAVE
    goal = each.goal
    what = f"{name}: {goal.who}" + (f" / {goal.to}" if goal.to else "") + f", {goal.figure}"
    said = f"{each.value:.3g}{' ×' if goal.to else ''}  (goal {goal.wanted})"
    end = middle + _REACH * _OCTAVE + 10
    return (
        f'<text x="{_LEFT - 10}" y="{y + 13:.0f}" text-anchor="end">{escape(what)}</text>'
        f'<rect class="{"met" if each.met else "missed"}" x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="18"/>'
        f'<text x="{end:.0f}" y="{y + 13:.0f}">{escape(said)}</text>'
    )
