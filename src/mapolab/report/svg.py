"""matplotlib figures as inline SVG that takes its colours and fonts from the page around it."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mapolab.texts import visible

# Drawn in colours that nothing else uses, and replaced by the page's own, which know light from dark.
INK, MUTED, RULE = "#010102", "#010103", "#010104"
METHOD_COLOURS = 8
# Colours repeat, and not everyone tells them apart: with seven markers they name 56 methods. Dashes help lines.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (2.5, 1)))
DASHES = (0, (3, 3))
LABEL_GAP = 8.5
"""Points between two labels, one above the other."""
STYLE = {
    # A matplotlibrc in the current folder may ask for LaTeX, which runs programs, or for files beside the page.
    "text.usetex": False,
    "svg.image_inline": True,
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
    "text.parse_math": False,  # a dollar in a name is a dollar
}


@dataclass(frozen=True)
class Plot:
    """A figure of the page. about: what stands beside its heading. svg: as HTML."""

    heading: str
    about: str
    svg: Markup


def method_colour(index: int) -> str:
    """Colour of the index-th of all methods, 0 being the base's grey; the others repeat after `METHOD_COLOURS`."""
    return "#0101" + format(0x10 if index == 0 else 0x11 + (index - 1) % METHOD_COLOURS, "02x")


def method_marker(index: int) -> str:
    """Of the index-th of all methods, 0 being the base."""
    return MARKERS[(index - 1) % len(MARKERS)] if index else "o"


def method_line(index: int) -> str | tuple:
    """Its dashes."""
    return LINES[(index - 1) % len(LINES)] if index else "-"


def key_mark(index: int, section: str) -> Markup:
    """The method's line and marker as a small <svg>, for the key of plots in this section of the page."""
    with style():
        figure = Figure((0.42, 0.16))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(-1, 1))
        colour = method_colour(index)
        axes.plot([0, 1], [0, 0], linestyle=method_line(index), color=colour, linewidth=1.5)
        axes.plot([0.5], [0], method_marker(index), color=colour, markersize=6)
        svg = str(render(figure, f"key-{section}-{index}", ""))
        return Markup(svg.replace('role="img" aria-label=""', 'aria-hidden="true"'))


def label_ends(axes: Axes, ends: list[tuple[float, float, int]]) -> None:
    """Write each method's number right of (x, y), moved up or down where two would overlap. ends: x, y, its place."""
    axes.figure.draw_without_rendering()  # else nobody knows where data lies
    pixel = axes.figure.dpi / 72
    bottom, top = axes.get_ylim()
    ends = [(x, min(max(y, bottom), top), index) for x, y, index in ends]  # a line that leaves the plot is named there
    places = np.array([axes.transData.transform((x, y)) for x, y, _ in ends]).reshape(-1, 2) / pixel
    for (x, y, index), (_, own), height in zip(ends, places, apart(places), strict=True):
        where = {"xytext": (6, height - own), "textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(str(index), (x, y), color=method_colour(index), fontsize=8, **where)


def apart(places: np.ndarray) -> np.ndarray:
    """(N, 2) places in points -> (N,) heights, moved so that labels side by side in x stand `LABEL_GAP` apart."""
    heights = places[:, 1].copy()
    order = np.argsort(heights, kind="stable")
    for _ in range(200):
        moved = False
        for number, low in enumerate(order):
            for high in order[number + 1 :]:
                overlap = LABEL_GAP - (heights[high] - heights[low])
                if overlap > 1e-6 and abs(places[high, 0] - places[low, 0]) < 2 * LABEL_GAP:
                    heights[low] -= overlap / 2
                    heights[high] += overlap / 2
                    moved = True
        if not moved:
            break
    return heights


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


def render(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an <svg> element. name: unique on the page, for the ids inside; description: for screen readers."""
    buffer = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # The page's own style sheet says it, which alone its policy lets through.
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    # The page sets the size; the view box keeps the proportions.
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1, flags=re.DOTALL)
    svg = svg.replace('role="img">', f'role="img" aria-label="{escape(description)}">', 1)
    # matplotlib names axes_1, line2d_1 ... alike in every figure; on one page only the names that are used may stay.
    used = set(re.findall(r'#([\w-]+)[")]', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"font: [^;\"]*?sans-serif[^;\"]*", lambda match: _page_font(match[0]), svg)
    return Markup(visible(_page_colours(svg)))


def _page_font(font: str) -> str:
    size = re.search(r"[\d.]+px", font)
    return f"font-size: {size[0] if size else '9px'}"


def _page_colours(svg: str) -> str:
    colours = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"}
    colours |= {method_colour(index): css_colour(index) for index in range(METHOD_COLOURS + 1)}
    for drawn, own in colours.items():
        svg = svg.replace(drawn, own)
    return svg
