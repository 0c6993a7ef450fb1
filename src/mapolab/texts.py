"""What a text may hold: everything that UTF-8 files, tables and terminals take as it is."""

import math
import re
from pathlib import Path
from typing import Any

# Control characters but for tab and line ends, and half a surrogate pair: "\ud800" in JSON, or bytes of a command line
# that are no UTF-8.
ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

MOST_BYTES = 1 << 18  # of a YAML file
MOST_VALUES = 20_000  # in it, aliases written out
# What a spreadsheet takes for a formula.
FORMULA = re.compile(r"[=+\-@\t\r]")


def odd_character(text: str) -> str | None:
    """The first character that a text may not hold, as `U+D800`; None where there is none."""
    found = ODD.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def one_line(text: str) -> str:
    """The text with line ends and tabs as spaces, and without spaces or byte order marks around it."""
    return " ".join(text.splitlines()).replace("\t", " ").strip().strip("\ufeff").strip()


def without_odd_characters(text: str) -> str:
    """The text with U+FFFD for each character that a text may not hold: for a terminal, which would obey some."""
    return ODD.sub("\ufffd", text)


def no_formula(text: str) -> str:
    """The text as a cell of a table that spreadsheets show and do not compute: what begins like a formula and is no
    number gets the apostrophe by which they know a text."""
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check_yaml(file: Path) -> None:
    """Raise ValueError, or yaml's own error, for a YAML file that is none, or that would not end: aliases of aliases
    make billions of values out of a few lines."""
    import yaml

    if (size := file.stat().st_size) > MOST_BYTES:
        raise ValueError(f"it has {size} bytes, more than the {MOST_BYTES} of a config")
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    if node is not None and _count(node, {}) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values, its aliases written out")


def _count(node: Any, known: dict[int, int | None]) -> int:
    """Values of a node of YAML, those of an alias as often as it is named."""
    if id(node) in known:
        if (count := known[id(node)]) is None:
            raise ValueError("an alias in it names what it stands in")
        return count
    known[id(node)] = None
    inner = node.value if isinstance(node.value, list) else []
    items = (item for entry in inner for item in (entry if isinstance(entry, tuple) else (entry,)))
    known[id(node)] = count = 1 + sum(_count(item, known) for item in items)
    return count


def brief(value: object, length: int = 120) -> str:
    """What a file says, for a message: on one line, and cut where it is long."""
    text = one_line(str(value))
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"
