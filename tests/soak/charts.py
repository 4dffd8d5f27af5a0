"""Draws every kind of series over time, as small graphs side by side in an SVG."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from tests.soak.run import Soak

_COLUMNS, _WIDTH, _HEIGHT = 3, 300, 110
_LEFT, _TOP, _GAP_X, _GAP_Y = 50, 62, 100, 62
_POINTS = 150
_COLOURS = ("#2a6fdb", "#d1495b", "#2a9d5c", "#c98a1b", "#7a4fbf", "#4a4a4a")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.small{font-size:10px;fill:#777}.head{font-weight:600}"
    ".line{fill:none;stroke-width:1.3}.axis{stroke:#bbb}.quarter{fill:#f2f4f8}.bad{fill:#d1495b;font-weight:600}"
)
_READ_MODEL_ROWS = ("rows of activity", "rows of analysis_trend", "rows of project", "rows of tenant")


class Graph(NamedTuple):
    """Series shown in one graph; `names` maps each to its label."""

    title: str
    names: dict[str, str]


def draw(made: Soak, caption: str) -> str:
    """Return an SVG. The two compared quarters are shaded, and lines that are not flat are labelled."""
    graphs = graphs_of(made)
    rows = -(-len(graphs) // _COLUMNS)
    width = _LEFT + _COLUMNS * (_WIDTH + _GAP_X)
    height = _TOP + rows * (_HEIGHT + _GAP_Y) + 10
    failing = {each.name for each in made.results() if not each.measured.flat}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>A soak: what could grow, over time</title><style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text class="head" x="12" y="22">{escape(_headline(made))}</text>',
        f'<text class="small" x="12" y="38">{escape(caption)}; shaded: the quarters that are compared</text>',
    ]
    for number, graph in enumerate(graphs):
        x = _LEFT + number % _COLUMNS * (_WIDTH + _GAP_X)
        y = _TOP + number // _COLUMNS * (_HEIGHT + _GAP_Y) + 14
        parts.extend([f'<g transform="translate({x} {y})">', *_graph(made, graph, failing), "</g>"])
    return "\n".join([*parts, "</svg>"]) + "\n"


def graphs_of(made: Soak) -> list[Graph]:
    """Return the graphs: series of one kind together, without those that are always zero."""
    named = [name for name in made.samples[0] if any(made.series(name))]

    def of(title: str, *kinds: str) -> Graph:
        chosen = [name for name in named if name.rpartition(" of ")[0] in kinds or name in kinds]
        return Graph(title, {name: name.rpartition(" of ")[2] if len(kinds) == 1 else name for name in chosen})

    every = [
        of("memory, MiB", "memory"),
        of("open files", "open files"),
        of("threads", "threads"),
        of("PostgreSQL connections", "connections"),
        of("Redis clients", "clients of Redis"),
        of("Redis data, MiB", "data of Redis"),
        of("entries of all streams", "entries of all streams"),
        of("backlog, entries", "entries of the backlog"),
        Graph("entries of each stream", {n: n.rpartition(" ")[2] for n in named if n.startswith("entries of stream ")}),
        of("Redis keys", "keys of Redis"),
        of("RQ jobs", "jobs"),
        Graph("rows of read models", {n: n.removeprefix("rows of ") for n in named if n in _READ_MODEL_ROWS}),
        of("rows of event_log beyond what was applied", "rows of event_log beyond what was applied"),
        of("rows of dead_letter", "rows of dead_letter"),
        of("rows of event_log (may grow)", "rows of event_log"),
    ]
    return [graph for graph in every if graph.names]


def _headline(made: Soak) -> str:
    plan, faults = made.plan, made.failures()
    verdict = "all is flat" if not faults else f"{len(faults)} failures"
    return (
        f"{plan.hours:g} h of traffic in {plan.minutes:g} min, {plan.events_per_s * plan.speed:g} events/s: {verdict}"
    )


def _graph(made: Soak, graph: Graph, failing: set[str]) -> list[str]:
    lines = {name: made.series(name) for name in graph.names}
    top = max(1.0, max(map(max, lines.values())) * 1.1)
    ends = _apart([_HEIGHT * (1 - values[-1] / top) + 4 for values in lines.values()])
    parts = _frame(graph.title, top, made.plan.minutes)
    for number, ((name, values), end) in enumerate(zip(lines.items(), ends, strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<polyline class="line" stroke="{colour}" points="{_points(values, top)}"/>')
        if name in failing:
            parts.append(_label(end, f"{graph.names[name]} NOT FLAT", 'class="small bad"'))
        elif len(lines) > 1:
            parts.append(_label(end, graph.names[name], f'class="small" style="fill:{colour}"'))
    return parts


def _frame(title: str, top: float, minutes: float) -> list[str]:
    quarter = _WIDTH / 4
    return [
        f'<rect class="quarter" x="{quarter:.0f}" width="{quarter:.0f}" height="{_HEIGHT}"/>',
        f'<rect class="quarter" x="{3 * quarter:.0f}" width="{quarter:.0f}" height="{_HEIGHT}"/>',
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>',
        f'<text class="small" x="-5" y="{_HEIGHT}" text-anchor="end">0</text>',
        f'<text class="small" x="-5" y="8" text-anchor="end">{top:,.0f}</text>',
        f'<text x="0" y="-6">{escape(title)}</text>',
        f'<text class="small" x="{_WIDTH}" y="{_HEIGHT + 12}" text-anchor="end">{minutes:g} min</text>',
    ]


def _label(y: float, text: str, how: str) -> str:
    return f'<text {how} x="{_WIDTH + 4}" y="{y:.0f}">{escape(text)}</text>'


def _points(values: Sequence[float], top: float) -> str:
    """Return a line through the values; many values are reduced to maxima, so that no peak is lost."""
    each = max(1, -(-len(values) // _POINTS))
    most = [max(values[first : first + each]) for first in range(0, len(values), each)]
    step = _WIDTH / max(1, len(most) - 1)
    return " ".join(f"{number * step:.1f},{_HEIGHT * (1 - value / top):.1f}" for number, value in enumerate(most))


def _apart(places: Sequence[float]) -> list[float]:
    """Return the positions of labels, moved apart so that they do not overlap."""
    moved = dict.fromkeys(range(len(places)), 0.0)
    last = -100.0
    for index in sorted(moved, key=places.__getitem__):
        last = moved[index] = max(places[index], last + 11)
    over = max(0.0, last - _HEIGHT - 4)
    return [place - over for place in moved.values()]
