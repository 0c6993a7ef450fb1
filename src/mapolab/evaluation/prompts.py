"""Prompt sets: a CSV file with a ``prompt`` column, a text file with a prompt a line, or the captions of a data set."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from mapolab.data.records import RowText
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError
from mapolab.paths import resolve


def find_prompts(source: str, split: str | None, revision: str | None, cache_folder: Path) -> list[str]:
    """The prompts of a .csv or .txt file in its order, or the different captions of a data set (named as `data.path`).

    split, revision: of the data set. cache_folder: where its index is kept. Raises UserError where there are none.
    """
    return held_out(source, split, revision, cache_folder)[0]


def held_out(
    source: str | None, split: str | None, revision: str | None, cache_folder: Path
) -> tuple[list[str], list[str]]:
    """The prompts that a run will be evaluated on, and the ids of the images that belong to them in a data set.

    Both are empty where no prompts are named.
    """
    if source is None:
        return [], []
    if Path(source).suffix in (".csv", ".txt"):
        return read_prompts(source), []
    texts = list(_texts(source, split, revision, cache_folder))
    prompts = dict.fromkeys(text.caption for text in texts if text.caption)
    return list(prompts), sorted({name for text in texts for name in text.image_ids})


def read_prompts(source: str) -> list[str]:
    """The prompts of a .csv or .txt file, in its order.

    Raises UserError when the file is missing, not UTF-8, has no ``prompt`` column or holds no prompt.
    """
    path = Path(resolve(source))
    if not path.is_file():
        raise UserError(f"evaluation.prompts is {source}, but there is no such file. Name a .csv or a .txt file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    prompts = [line.strip() for line in (_column(text, source) if path.suffix == ".csv" else text.splitlines())]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise UserError(f"{source} holds no prompt. Write one prompt a line, or a column named prompt.")
    return prompts


def _texts(source: str, split: str | None, revision: str | None, cache_folder: Path) -> Iterator[RowText]:
    try:
        opened = open_source(source, split, revision, cache_folder, download_cache_gb=0)
    except UserError as error:
        raise UserError(f"evaluation.prompts={source}, evaluation.split={split}: {error}") from None
    for block in range(len(opened.block_sizes)):
        yield from opened.texts(block)


def _column(text: str, source: str) -> list[str]:
    rows = csv.DictReader(text.splitlines())
    if "prompt" not in (rows.fieldnames or []):
        raise UserError(f"{source} has the columns {rows.fieldnames}, none of them named prompt. Add or rename one.")
    return [row["prompt"] or "" for row in rows]
