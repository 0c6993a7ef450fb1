"""matplotlib figures as inline SVG that takes its colours and fonts from the page around it."""

from __future__ import annotations

import io
import re
from html import escape

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Drawn in colours that nothing else uses, and replaced by the page's own, which know light from dark.
INK, MUTED, RULE = "#010102", "#010103", "#010104"
METHOD_COLOURS = 8
DASHES = (0, (3, 3))
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.formatter.useoffset": False,
}


def method_colour(index: int) -> str:
    """Colour of the index-th of all methods, 0 being the base's grey; the others repeat after `METHOD_COLOURS`."""
    return "#0101" + format(0x10 if index == 0 else 0x11 + (index - 1) % METHOD_COLOURS, "02x")


def css_colour(index: int) -> str:
    """The page's variable for `method_colour(index)`."""
    return "var(--base)" if index == 0 else f"var(--method-{(index - 1) % METHOD_COLOURS})"


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty plot of this many inches, to be filled and rendered inside of `style()`."""
    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def style() -> rc_context:
    """The report's matplotlib settings, for a block, whatever the user's own are."""
    return rc_context(STYLE)


def render(figure: Figure, name: str, description: str) -> str:
    """The figure as an <svg> element. name: unique on the page, for the ids inside; description: for screen readers."""
    buffer = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # The page sets the size; the view box keeps the proportions.
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1, flags=re.DOTALL)
    svg = svg.replace('role="img">', f'role="img" aria-label="{escape(description)}">', 1)
    # matplotlib names axes_1, line2d_1 ... alike in every figure; on one page only the names that are used may stay.
    used = set(re.findall(r'#([\w-]+)[")]', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"font: [^;\"]*?sans-serif[^;\"]*", lambda match: _page_font(match[0]), svg)
    return _page_colours(svg)


def _page_font(font: str) -> str:
    size = re.search(r"[\d.]+px", font)
    return f"font-size: {size[0] if size else '9px'}"


def _page_colours(svg: str) -> str:
    colours = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"}
    colours |= {method_colour(index): css_colour(index) for index in range(METHOD_COLOURS + 1)}
    for drawn, own in colours.items():
        svg = svg.replace(drawn, own)
    return svg
