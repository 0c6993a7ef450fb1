"""Categories of prompts, where a prompt set or file brings them: scores are then also told category by category."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from mapolab.evaluation.prompt_sets import PROMPT_SETS, fetch_set
from mapolab.evaluation.prompts import COLUMNS
from mapolab.paths import resolve

NAMES = ("category", "Category", "challenge", "Challenge", "categories")


def find_categories(source: str) -> dict[str, str]:
    """Prompt -> category; empty where there are none.

    A column or key of `NAMES` beside the prompt's own (PartiPrompts, DrawBench and I2P have one; of several with commas
    between them the first); of a set in several files, which have none inside, each file's name (HPSv2's four styles).
    """
    chosen = PROMPT_SETS.get(source)
    paths = fetch_set(chosen) if chosen else [Path(resolve(source))]
    found: dict[str, str] = {}
    for path in paths:
        found |= _within(path) or (_as_one(path) if len(paths) > 1 else {})
    return found


def _within(path: Path) -> dict[str, str]:
    rows = _rows(path)
    if not rows or not isinstance(rows[0], dict):
        return {}
    prompt = next((name for name in COLUMNS if name in rows[0]), None)
    category = next((name for name in NAMES if name in rows[0]), None)
    if prompt is None or category is None:
        return {}
    return {str(row[prompt]).strip(): _first(row.get(category)) for row in rows if row.get(prompt)}


def _first(value: object) -> str:
    """The first category of a cell or a JSON value; empty where there is none."""
    value = next(iter(value), None) if isinstance(value, list) else value
    return "" if value is None else str(value).split(",")[0].strip()


def _as_one(path: Path) -> dict[str, str]:
    texts = [row for row in _rows(path) if isinstance(row, str)]
    return dict.fromkeys((text.strip() for text in texts), path.stem)


def _rows(path: Path) -> list:
    """Of a file that the prompts' own reader has accepted; none of other kinds."""
    if path.suffix not in (".csv", ".tsv", ".json", ".jsonl") or not path.is_file():
        return []
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix in (".csv", ".tsv"):
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","))
    return (
        [json.loads(line) for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else json.loads(text)
    )
