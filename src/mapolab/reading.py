"""Small files read back: JSON, YAML and CSV that mapolab wrote, or that a stranger did.

They are data. Nothing in them is executed, resolved or followed; what is not whole, not of its type, or larger than
such a file can be, is refused in one paragraph. `fix`, a sentence of the caller's, says what to do about it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mapolab.errors import UserError
from mapolab.texts import without_apostrophe

Kind = TypeVar("Kind")

LARGEST_JSON = 256 << 20
"""Bytes; a checkpoint's state has an entry for each parameter."""
LARGEST_YAML = 1 << 20
"""Bytes; YAML is read slowly, and a config has some kilobytes."""
LARGEST_CONFIG, MOST_OF_A_CONFIG = 1 << 18, 20_000
"""Bytes, and values with aliases written out, of a YAML file that Hydra composes."""
LARGEST_CELL = 1 << 17
"""Characters, as csv has it."""
DEEPEST, MOST = 64, 5_000_000
"""Levels of nesting, and values of a file with all that its aliases repeat."""
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan", re.ASCII)


def read_object(file: Path, kind: type[Kind], fix: str, any_number: bool = False) -> Kind:
    """The value in a JSON file, of the type `kind`: a TypedDict, or a list or dict of plain types.

    Keys that `kind` does not have stay. any_number: whether numbers may be infinite, no number or of any length, as in
    a checkpoint's state. Raises UserError for everything else, a missing file among it.
    """
    text = _read_text(file, LARGEST_JSON, fix)
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise _refused(file, f"is nested deeper than {DEEPEST} levels", fix) from None
    except ValueError as error:
        raise _refused(file, f"is no sound JSON ({_words(error)})", fix) from None
    return _typed(file, value, kind, fix, any_number)


def read_yaml(file: Path, kind: type[Kind], fix: str) -> Kind:
    """The value in a YAML file, as `read_object`; a `${...}` in it stays text. Tags, merge keys and keys that stand
    twice are refused."""
    text = _read_text(file, LARGEST_YAML, fix)
    try:
        value = yaml.load(text, _PlainLoader)
    except RecursionError:
        raise _refused(file, f"is nested deeper than {DEEPEST} levels", fix) from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise _refused(file, f"is no sound YAML ({_words(error)})", fix) from None
    return _typed(file, value, kind, fix, any_number=False)


def read_cells(
    file: Path, fix: str, unfinished: bool = False, last: int | None = None
) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[int]]:
    """(header, rows, the line from 1 where each row begins) of a CSV file that `files.csv_text` made.

    unfinished: whether a last line may be cut off, which is then left out. last: of so many last lines only, of a file
    with no line end in a cell. Raises UserError for a file that is missing, cut off, or no such table.
    """
    text = _read_text(file, None, fix)
    if unfinished:
        text = text[: text.rfind("\n") + 1]
    if last is not None:
        header, *others = text.splitlines(keepends=True) or [""]
        text = "".join([header, *others[-last:]])
    # newline="": a carriage return within quotes belongs to the cell.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, lines, begin = [], [], 1
    try:
        for row in reader:
            rows.append(tuple(map(without_apostrophe, row)))
            lines.append(begin)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise _refused(file, f"cannot be read from line {begin} on ({error})", fix) from None
    if text and not text.endswith(("\n", "\r")):
        raise _refused(file, "ends in the middle of a line", fix)
    header = rows[0] if rows else ()
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise _refused(file, f"has {len(row)} cells in line {line} under {len(header)} columns", fix)
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise _refused(file, f"has two columns called {twice}", fix)
    return header, rows[1:], lines[1:]


def read_rows(file: Path, fix: str = "Write it again.") -> list[dict[str, str]]:
    """The rows of a CSV file by column, as `read_cells`."""
    header, rows, _ = read_cells(file, fix)
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_numbers(file: Path, fix: str, unfinished: bool = False, last: int | None = None) -> dict[str, list[float]]:
    """The columns of a CSV file of numbers: NaN where a cell is empty, infinite where it says nan; at least `step`,
    whole and rising. Raises UserError as `read_cells`."""
    header, rows, lines = read_cells(file, fix, unfinished, last)
    columns: dict[str, list[float]] = {name: [] for name in header}
    for row, line in zip(rows, lines, strict=True):
        for name, cell in zip(header, row, strict=True):
            if cell and not NUMBER.fullmatch(cell):
                raise _refused(file, f"has {cell!r:.60} in line {line}, column {name}, which is no number", fix)
            value = float(cell) if cell else math.nan
            columns[name].append(math.inf if cell and math.isnan(value) else value)
    steps = columns.get("step")
    if header and steps is None:
        raise _refused(file, "has no column step", fix)
    for before, step, line in zip([-1.0, *(steps or [])], steps or [], lines, strict=False):
        if not (step > before and float(step).is_integer()):
            raise _refused(file, f"has the step {step:g} in line {line}, after {before:g}", fix)
    return columns


def _read_text(file: Path, largest: int | None, fix: str) -> str:
    try:
        with open(file, "rb") as opened:
            if not stat.S_ISREG(Path(file).stat().st_mode):
                raise _refused(file, "is no regular file", fix)
            content = opened.read() if largest is None else opened.read(largest + 1)
    except FileNotFoundError:
        raise _refused(file, "is missing", fix) from None
    except OSError as error:
        raise _refused(file, f"cannot be read ({error.strerror or error})", fix) from None
    if largest is not None and len(content) > largest:
        raise _refused(file, f"is larger than {largest >> 20} MiB, which no such file is", fix)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(file, f"cannot be read (byte {error.start} is not UTF-8)", fix) from None


def _typed(file: Path, value: Any, kind: Any, fix: str, any_number: bool) -> Any:
    if fault := _fault(value, any_number):
        raise _refused(file, fault, fix)
    from pydantic import ValidationError

    try:
        _adapter(kind).validate_python(value, strict=True)  # in every block of it
    except ValidationError as error:
        raise _refused(file, _told(error.errors(include_url=False, include_context=False)[0]), fix) from None
    return value  # and not pydantic's copy, in which an integer may have become a float


@lru_cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _fault(value: Any, any_number: bool) -> str | None:
    """What of a parsed value no file of ours holds, in a few words; without recursion."""
    waiting, count = [(value, 0)], 0
    while waiting:
        one, depth = waiting.pop()
        count += 1
        if depth > DEEPEST:
            return f"is nested deeper than {DEEPEST} levels"
        if count > MOST:
            return f"holds more than {MOST:,} values"
        if isinstance(one, dict):
            if odd := next((key for key in one if not isinstance(key, str)), None):
                return f"has the key {odd!r:.60}, which is no text"
            waiting += [(inner, depth + 1) for inner in one.values()] + [(key, depth) for key in one]
        elif isinstance(one, list):
            waiting += [(inner, depth + 1) for inner in one]
        elif isinstance(one, str):
            if any(0xD800 <= ord(sign) <= 0xDFFF for sign in one):
                return "holds half a surrogate pair, which is no character"
        elif one is None or isinstance(one, bool):
            continue
        elif not isinstance(one, int | float):
            return f"holds a {type(one).__name__}, which is no plain value"
        elif not any_number and (abs(one) >= 2**64 if isinstance(one, int) else not math.isfinite(one)):
            return "holds a number that is not finite or has more than 64 bits"
    return None


def _told(error: Any) -> str:
    """pydantic's first complaint, in a few words."""
    where = ".".join(str(part) for part in error["loc"]) or "its top"
    if error["type"] == "missing":
        return f"has no {where}"
    wanted = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"has {error['input']!r:.60} under {where}, which should be: {wanted}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in names if names.count(key) > 1)!r:.60} stands twice")
    return found


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without merge keys, whose repetition grows without end, and without keys that stand twice."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "it has a merge key <<", node.start_mark)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r:.60} stands twice", node.start_mark)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _refused(file: Path, reason: str, fix: str) -> UserError:
    return UserError(f"{file} {reason}. {fix}")


def check_yaml(file: Path) -> None:
    """Raise ValueError, or yaml's own error, for a YAML file that is none, or that would not end: aliases of aliases
    make billions of values out of a few lines."""
    if (size := file.stat().st_size) > LARGEST_CONFIG:
        raise ValueError(f"it has {size} bytes, more than the {LARGEST_CONFIG} of a config")
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    if node is not None and _count(node, {}) > MOST_OF_A_CONFIG:
        raise ValueError(f"it has more than {MOST_OF_A_CONFIG} values, its aliases written out")


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
