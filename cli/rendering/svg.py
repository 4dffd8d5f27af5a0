"""Terminal output as an SVG picture."""

import re
from io import StringIO

from rich.console import Console, RenderableType

WIDTH = 116


def render_svg(content: RenderableType) -> str:
    """Return an SVG picture of the output on a terminal. It loads no fonts from the network."""
    console = Console(record=True, width=WIDTH, force_terminal=True, color_system="truecolor", file=StringIO())
    console.print(content, "")  # without the empty line, the frame cuts off the descenders of the last line
    svg = console.export_svg(title="projector status", unique_id="status")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
