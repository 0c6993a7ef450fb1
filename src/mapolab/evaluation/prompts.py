"""Prompt sets: named ones, files with a prompt a line, row or object, or the captions of a data set."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet

from mapolab.config.suggest import did_you_mean
from mapolab.data.records import RowText
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError
from mapolab.evaluation.prompt_sets import PROMPT_SETS, PromptSet, check_count, fetch_set
from mapolab.paths import resolve

COLUMNS = ("prompt", "Prompt", "prompts", "Prompts", "caption", "text")
FILES = (".csv", ".tsv", ".txt", ".json", ".jsonl")


def find_prompts(
    source: str, split: str | None, revision: str | None, cache_folder: Path, block: str = ""
) -> list[str]:
    """The prompts that `prompts=source` of `mapolab evaluate` names, in their order, as often as they stand there.

    source: a set of `prompt_sets`, a file (.txt, .csv, .tsv, .json, .jsonl, .parquet), or a data set, named as
    `data.path`, whose different captions they are. split, revision: of the data set. cache_folder: where its index is
    kept. block: of the config that names them, with a dot, for messages. Raises UserError where there are none.
    """
    return _find(source, split, revision, cache_folder, block)[0]


def held_out(
    source: str | None, split: str | None, revision: str | None, cache_folder: Path
) -> tuple[list[str], list[str]]:
    """The prompts that a run will be evaluated on (`evaluation.prompts`), and the ids of the images that belong to them
    in a data set.

    Both are empty where no prompts are named.
    """
    return ([], []) if source is None else _find(source, split, revision, cache_folder, "evaluation.")


def read_prompts(source: str, block: str = "") -> list[str]:
    """The prompts of a file, in its order. block: of the config that names it, with a dot, for the message.

    Raises UserError when the file is missing, not UTF-8, has no column `prompt` (or a usual other name), or holds none.
    """
    path = Path(resolve(source))
    if not path.is_file():
        raise UserError(f"{block}prompts={source} does not exist: there is no such file. Name a .csv or a .txt file.")
    found = [prompt.strip() for prompt in _prompts_in(path, source)]
    prompts = [prompt for prompt in found if prompt]
    if not prompts:
        raise UserError(f"{source} holds no prompt. Write one prompt a line, or a column named prompt.")
    return prompts


def _find(
    source: str, split: str | None, revision: str | None, cache_folder: Path, block: str
) -> tuple[list[str], list[str]]:
    if source in PROMPT_SETS:
        return _of_set(PROMPT_SETS[source])
    if Path(source).suffix in FILES or _is_table(source):
        return read_prompts(source, block), []
    texts = list(_texts(source, split, revision, cache_folder, block))
    prompts = dict.fromkeys(text.caption for text in texts if text.caption)
    return list(prompts), sorted({name for text in texts for name in text.image_ids})


def _of_set(chosen: PromptSet) -> tuple[list[str], list[str]]:
    """The set's prompts, each once where it is of a data set's rows, and the ids of these rows' images."""
    paths = fetch_set(chosen)
    prompts = [prompt for path in paths for prompt in read_prompts(str(path))]
    check_count(chosen, prompts)
    if not chosen.image_ids:
        return prompts, []
    names = [name for path in paths for column in chosen.image_ids for name in _column(path, column, path.name)]
    return list(dict.fromkeys(prompts)), sorted(set(names))


def _prompts_in(path: Path, source: str) -> list[str]:
    if path.suffix == ".parquet":
        return _column(path, _column_name(parquet.read_schema(path).names, source), source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    if path.suffix in (".json", ".jsonl"):
        return _from_json(text, path.suffix, source)
    if path.suffix in (".csv", ".tsv"):
        # Line ends inside of quotes belong to the prompt.
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
        name = _column_name(list(rows.fieldnames or []), source)
        return [" ".join((row[name] or "").splitlines()) for row in rows]
    return text.split("\n")


def _column(path: Path, name: str, source: str) -> list[str]:
    """A column of texts of a parquet file, with "" where there is none. Raises UserError for other values."""
    try:
        values = parquet.read_table(path, columns=[name]).column(name)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{source} cannot be read ({' '.join(str(error).split())[:100]}). Write it again.") from None
    if not (pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type)):
        raise UserError(
            f"The column {name} of {source} holds {values.type}, which is no text. Write prompts as strings."
        )
    return [value or "" for value in values.to_pylist()]


def _from_json(text: str, kind: str, source: str) -> list[str]:
    """A list of strings or of objects; in .jsonl one of either a line."""
    try:
        # Not splitlines: strings in JSON may hold U+2028 and the like as they are.
        lines = [line for line in text.split("\n") if line.strip()]
        entries = [json.loads(line) for line in lines] if kind == ".jsonl" else json.loads(text)
    except ValueError as error:
        raise UserError(f"{source} is not JSON ({error}). A .jsonl file has one value a line.") from None
    if not isinstance(entries, list):
        raise UserError(f"{source} is no list. Write a list of prompts, or of objects with a key prompt.")
    prompts = []
    for entry in entries:
        if isinstance(entry, dict):
            entry = entry[_column_name(list(entry), source)]
        if not isinstance(entry, str):
            raise UserError(f"{source} holds {entry!r:.60}, which is no text. Write prompts as strings.")
        prompts.append(entry)
    return prompts


def _column_name(names: list[str], source: str) -> str:
    found = next((name for name in COLUMNS if name in names), None)
    if found is None:
        raise UserError(f"{source} has the columns {names}, none of them named prompt. Add or rename one.")
    return found


def _is_table(source: str) -> bool:
    """Whether this is a parquet file of prompts, and not of pairs."""
    path = Path(resolve(source))
    if path.suffix != ".parquet" or not path.is_file():
        return False
    try:
        names = parquet.read_schema(path).names
    except (pyarrow.ArrowException, OSError):
        return False  # its reader says what is wrong
    return "jpg_0" not in names and not {"caption", "label_0"} <= set(names)


def _texts(source: str, split: str | None, revision: str | None, cache_folder: Path, block: str) -> Iterator[RowText]:
    try:
        opened = open_source(source, split, revision, cache_folder, download_cache_gb=0)
    except UserError as error:
        told = f"{block}prompts={source}" + (f", {block}split={split}" if split else "")
        raise UserError(f"{told}:{did_you_mean(source, PROMPT_SETS)} {error}") from None
    for number in range(len(opened.block_sizes)):
        yield from opened.texts(number)
