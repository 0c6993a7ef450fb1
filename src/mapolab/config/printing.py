"""The resolved config as a tree, for people."""

from typing import Any

from rich.console import Console
from rich.tree import Tree

from mapolab.texts import rich_text


def print_tree(config: dict[str, Any], console: Console | None = None) -> None:
    """Print a resolved config as a tree; in a terminal with colours, elsewhere as plain lines."""
    # Soft wrap: a log file has no width to wrap long paths to.
    (console or Console(soft_wrap=True)).print(_grow(Tree("config", guide_style="dim"), config))


def _grow(tree: Tree, block: dict[str, Any]) -> Tree:
    for key, value in block.items():
        if isinstance(value, dict) and value:
            _grow(tree.add(rich_text(key, "bold")), value)
        else:
            tree.add(rich_text(f"{key}: {_text(value)}"), highlight=True)
    return tree


def _text(value: Any) -> str:
    """A value as YAML would show it."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return "{}" if value == {} else str(value)
