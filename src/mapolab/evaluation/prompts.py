"""The prompts that a config names: a prompt set, a table of them, or the captions of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet

from mapolab.config.suggest import did_you_mean
from mapolab.data.records import RowText
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError
from mapolab.evaluation.prompt_sets import PROMPT_SETS, PromptSet, check_count, fetch_set
from mapolab.evaluation.prompt_table import TEXTS, PromptRow, as_text, ending, read_column, read_table
from mapolab.paths import resolve


def find_rows(
    source: str, split: str | None, revision: str | None, cache_folder: Path, block: str = ""
) -> list[PromptRow]:
    """The prompts that `prompts=source` of `mapolab evaluate` names, in their order, as often as they stand there.

    source: a set of `prompt_sets`, a file (.txt, .csv, .tsv, .json, .jsonl, .parquet), or a data set, named as
    `data.path`, whose different captions they are. split, revision: of the data set. cache_folder: where its index is
    kept. block: of the config that names them, with a dot, for messages. Raises UserError where there are none.
    """
    return _find(source, split, revision, cache_folder, block)[0]


def find_prompts(
    source: str, split: str | None, revision: str | None, cache_folder: Path, block: str = ""
) -> list[str]:
    """The prompts alone of `find_rows`."""
    return [row.prompt for row in find_rows(source, split, revision, cache_folder, block)]


def held_out(
    source: str | None, split: str | None, revision: str | None, cache_folder: Path
) -> tuple[list[str], list[str]]:
    """The prompts that a run will be evaluated on (`evaluation.prompts`), and the ids of the images that belong to them
    in a data set.

    Both are empty where no prompts are named.
    """
    rows, names = ([], []) if source is None else _find(source, split, revision, cache_folder, "evaluation.")
    return [row.prompt for row in rows], names


def _find(
    source: str, split: str | None, revision: str | None, cache_folder: Path, block: str
) -> tuple[list[PromptRow], list[str]]:
    if source in PROMPT_SETS:
        return _of_set(PROMPT_SETS[source])
    if ending(source) in TEXTS or _is_table(source):
        return read_table(source, block), []
    texts = list(_texts(source, split, revision, cache_folder, block))
    captions = dict.fromkeys(as_text(text.caption, "A caption", source) for text in texts if text.caption)
    names = sorted({name for text in texts for name in text.image_ids})
    return [PromptRow(caption) for caption in captions if caption], names


def _of_set(chosen: PromptSet) -> tuple[list[PromptRow], list[str]]:
    """The set's prompts, each once where it is of a data set's rows, and the ids of these rows' images.

    Where a set in several files has no categories inside, each file's name is one: HPSv2's four styles.
    """
    paths, rows = fetch_set(chosen), []
    for path in paths:
        category = path.stem if len(paths) > 1 else ""
        rows += [replace(row, category=row.category or category) for row in read_table(str(path))]
    check_count(chosen, len(rows))
    if not chosen.image_ids:
        return rows, []
    names = {name for path in paths for column in chosen.image_ids for name in read_column(path, column, path.name)}
    unique: dict[str, PromptRow] = {}
    for row in rows:
        unique.setdefault(row.prompt, row)
    return list(unique.values()), sorted(names - {None})


def _is_table(source: str) -> bool:
    """Whether this is a parquet file of prompts, and not of pairs."""
    path = Path(resolve(source))
    if ending(path) != ".parquet" or not path.is_file():
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
