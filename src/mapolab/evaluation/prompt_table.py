"""Tables of prompts: one reader for every kind of file, from which prompts, categories and clusters all come."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

from mapolab.data.records import LONGEST_CAPTION
from mapolab.data.sources.row_groups import ERRORS, MOST_ROWS, TooLarge, read_row_group
from mapolab.errors import UserError
from mapolab.evaluation.delimited import decode, rows_of_csv, rows_of_tsv
from mapolab.files import read_regular
from mapolab.paths import resolve
from mapolab.texts import odd_character, one_line

TEXTS = (".txt", ".csv", ".tsv", ".json", ".jsonl")
"""The endings of files of prompts, in any case. A .parquet file may also hold a data set."""
# By which names a column is known, in any case; the first that is there counts.
COLUMNS = {
    "prompt": ("prompt", "prompts", "caption", "text"),
    "category": ("category", "challenge", "categories"),
    "cluster": ("cluster",),
}
LONGEST = LONGEST_CAPTION  # characters; csv reads little more in one cell
MOST_BYTES = 1 << 28  # of a file: a million long prompts

Row = tuple[str, dict[str, Any]]
"""Where a row stands, as `Line 3`, and its cells by column."""


@dataclass(frozen=True)
class PromptRow:
    """A prompt on one line, and what the table says of it, "" where it says nothing.

    category: scores are told by it, too. cluster: prompts of one cluster are no independent samples.
    """

    prompt: str
    category: str = ""
    cluster: str = ""


def ending(source: str | Path) -> str:
    """`.csv` of `Prompts.CSV`."""
    return Path(source).suffix.lower()


def read_table(source: str, block: str = "") -> list[PromptRow]:
    """The rows of a file in its order. block: of the config that names it, with a dot, for the message.

    Raises UserError for a file that is missing or not whole, a row that is not like its header, and a prompt, category
    or cluster that is no text.
    """
    path = Path(resolve(source))
    if not path.is_file():
        missing = "is no regular file" if path.exists() else "does not exist: there is no such file"
        raise UserError(f"{block}prompts={source} {missing}. Name a .csv or a .txt file.")
    kind = ending(path)
    if kind == ".parquet":
        found = _from_parquet(path, source)
    else:
        text = decode(_content(path, source), source)
        if kind in (".csv", ".tsv"):
            found = _of_lines(rows_of_csv(text, source) if kind == ".csv" else rows_of_tsv(text, source), source)
        elif kind in (".json", ".jsonl"):
            found = _from_json(text, kind, source)
        else:
            found = _of_texts([(f"Line {number}", line) for number, line in enumerate(text.split("\n"), 1)], source)
    if not found:
        raise UserError(f"{source} holds no prompt. Write one prompt a line, or a column named prompt.")
    _check_clusters(found, source)
    return found


def read_column(path: Path, name: str, source: str) -> list[Any]:
    """A column of a parquet file. Raises UserError for a file that is not whole or holds something else than UTF-8."""
    try:
        # Not parquet.read_table, which takes a folder called a=b for a column.
        file = parquet.ParquetFile(path)
        if file.metadata.num_rows > MOST_ROWS:
            raise TooLarge(f"{file.metadata.num_rows:,} rows")
        values: list[Any] = []
        left = MOST_BYTES
        for group in range(file.num_row_groups):
            column = read_row_group(file, group, [name]).column(name)
            if (left := left - column.nbytes) < 0:
                raise TooLarge(f"more than {MOST_BYTES >> 20} MiB of text")
            values += column.to_pylist()
        return values
    except TooLarge as error:
        raise UserError(f"{source} is no table of prompts: it holds {error}. Take fewer prompts.") from None
    except ERRORS as error:
        raise _unreadable(source, error) from None


def _content(path: Path, source: str) -> bytes:
    try:
        return read_regular(path, MOST_BYTES)
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}). Make it readable.") from None


def _of_lines(rows: list[tuple[int, list[str]]], source: str) -> list[PromptRow]:
    """rows: (line, cells), the header first."""
    if not rows:
        return []
    names = rows[0][1]
    beside = names.index(_columns(names, source)["prompt"]) + 1
    for line, cells in rows[1:]:
        if len(cells) != len(names):
            raise UserError(
                f"Line {line} of {source} has {len(cells)} cells instead of the header's {len(names)}, {names}. Put a "
                'cell with a separator in it in quotes, "a fox, red", and leave a cell empty rather than out.'
            )
        if beside < len(cells) and cells[beside].startswith(" ") and cells[beside].strip():
            raise UserError(
                f"Line {line} of {source} has {cells[beside]!r:.60} under {names[beside]}, with a space, as if a comma "
                'of the prompt had ended it. Put such a prompt in quotes, "a fox, red", or remove the space.'
            )
    return _of_rows([(f"Line {line}", dict(zip(names, cells, strict=True))) for line, cells in rows[1:]], names, source)


def _from_json(text: str, kind: str, source: str) -> list[PromptRow]:
    """A list of strings or of objects; in .jsonl one of either a line."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
            raise UserError(f"{source} has an object with two keys {twice[0]!r}. Leave one out.")
        return dict(pairs)

    try:
        if kind == ".jsonl":
            # Not splitlines: strings in JSON may hold U+2028 and the like as they are.
            lines = [(f"Line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
            entries = [(place, json.loads(line, object_pairs_hook=once)) for place, line in lines]
        else:
            whole = json.loads(text, object_pairs_hook=once)
            if not isinstance(whole, list):
                raise UserError(f"{source} is no list. Write a list of prompts, or of objects with a key prompt.")
            entries = [(f"Entry {number}", entry) for number, entry in enumerate(whole, 1)]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON ({error}). A .jsonl file has one value a line.") from None
    if not any(isinstance(entry, dict) for _, entry in entries):
        return _of_texts(entries, source)
    if other := next((place for place, entry in entries if not isinstance(entry, dict)), None):
        raise UserError(f"{other} of {source} is no object like the others. Write all as strings, or all as objects.")
    names = list(dict.fromkeys(key for _, entry in entries for key in entry))
    return _of_rows(entries, names, source)


def _from_parquet(path: Path, source: str) -> list[PromptRow]:
    try:
        schema = parquet.read_schema(path)
    except ERRORS as error:
        raise _unreadable(source, error) from None
    columns = _columns(schema.names, source)
    kind = schema.field(columns["prompt"]).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if str(kind) not in ("string", "large_string", "string_view"):
        raise UserError(
            f"The column {columns['prompt']} of {source} holds {kind}, which is no text. Write prompts as strings."
        )
    cells = zip(*(read_column(path, name, source) for name in columns.values()), strict=True)
    rows = [(f"Row {number}", dict(zip(columns.values(), row, strict=True))) for number, row in enumerate(cells, 1)]
    return _of_rows(rows, list(columns.values()), source)


def _columns(names: list[str], source: str) -> dict[str, str]:
    """What of `COLUMNS` the table has, by the table's own names. Raises UserError where it has no prompts."""
    found = {}
    for kind, known in COLUMNS.items():
        named = [same for one in known if (same := [name for name in names if one_line(name).casefold() == one])]
        if named and len(named[0]) > 1:
            raise UserError(
                f"{source} has {len(named[0])} columns {named[0]}. Leave one, or name the others otherwise."
            )
        if named:
            found[kind] = named[0][0]
    if "prompt" not in found:
        other = next((sign for sign in ";\t|" if len(names) == 1 and sign in names[0]), None)
        hint = f" They are separated by {other!r}: save the file with commas." if other else ""
        raise UserError(f"{source} has the columns {names}, none of them named prompt. Add or rename one.{hint}")
    return found


def _of_texts(entries: list[tuple[str, Any]], source: str) -> list[PromptRow]:
    """Prompts without a header; blank ones are left out."""
    prompts = [as_text(value, place, source) for place, value in entries]
    return [PromptRow(prompt) for prompt in prompts if prompt]


def _of_rows(rows: list[Row], names: list[str], source: str) -> list[PromptRow]:
    columns, found = _columns(names, source), []
    for place, cells in rows:
        row = {kind: cells.get(name) for kind, name in columns.items()}
        prompt = "" if row["prompt"] is None else as_text(row["prompt"], place, source)
        if not prompt:
            raise UserError(f"{place} of {source} has no prompt. Write one, or leave the row out.")
        labels = {kind: _label(value, kind, place, source) for kind, value in row.items() if kind != "prompt"}
        found.append(PromptRow(prompt, **labels))
    return found


def as_text(value: Any, place: str, source: str) -> str:
    """A text on one line. Raises UserError for another value, and for characters that no prompt may hold."""
    if not isinstance(value, str):
        raise UserError(f"{place} of {source} holds {value!r:.60}, which is no text. Write prompts as strings.")
    text = one_line(value)
    if found := odd_character(text):
        raise UserError(f"{place} of {source} holds the character {found}, which is no text: {text!r:.60}. Remove it.")
    if len(text) > LONGEST:
        raise UserError(f"{place} of {source} has a text of more than {LONGEST:,} characters. Shorten it.")
    return text


def _label(value: Any, kind: str, place: str, source: str) -> str:
    """A category, the first of several with commas between them, or a cluster; "" where there is none."""
    if kind == "category" and isinstance(value, list):
        value = next(iter(value), None)
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, dict | list | bytes):
        raise UserError(f"{place} of {source} has the {kind} {value!r:.60}, which is no text. Write it as a string.")
    text = as_text(str(value), place, source)
    return text.split(",")[0].strip() if kind == "category" else text


def _check_clusters(rows: list[PromptRow], source: str) -> None:
    """Every prompt has a cluster, or none has, and a prompt always the same: statistics resample whole clusters."""
    if not any(row.cluster for row in rows):
        return
    known: dict[str, str] = {}
    for row in rows:
        if not row.cluster:
            raise UserError(f"{source} has no cluster for {row.prompt!r:.60}. Name one for every prompt, or for none.")
        if known.setdefault(row.prompt, row.cluster) != row.cluster:
            raise UserError(
                f"{source} has {row.prompt!r:.60} in the clusters {known[row.prompt]!r} and {row.cluster!r}. A prompt "
                "belongs to one cluster."
            )


def _unreadable(source: str, error: Exception) -> UserError:
    return UserError(f"{source} cannot be read ({' '.join(str(error).split())[:100]}). Write it again.")
