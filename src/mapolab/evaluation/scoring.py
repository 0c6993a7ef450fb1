"""Scores for pictures of the store, each computed once."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mapolab import files
from mapolab.errors import RunError
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.store import Store, link


def score_pictures(
    scorers: list[Scorer],
    keys: list[str],
    prompts: list[str],
    store: Store,
    group: int,
    share: tuple[int, int],
    progress: Callable[[int], None],
) -> int:
    """Score this process's share of the pictures with every scorer that has not seen them; returns how many scores.

    share: (rank, processes), which takes whole groups as `generate` does. Raises RunError for a score that is not
    finite, UserError for a broken picture.
    """
    rank, processes = share
    computed = 0
    for start in list(range(0, len(keys), group))[rank::processes]:
        members = keys[start : start + group]
        texts = prompts[start : start + group]
        known = [store.scores(key) for key in members]
        fresh: list[dict[str, float]] = [{} for _ in members]
        for scorer in scorers:
            lacking = [index for index, scores in enumerate(known) if scorer.fingerprint not in scores]
            if not lacking:
                continue
            pictures = [store.load_picture(members[index]) for index in lacking]
            values = scorer(pictures, [texts[index] for index in lacking]).tolist()
            for index, value in zip(lacking, values, strict=True):
                if not math.isfinite(value):
                    raise RunError(
                        f"The scorer {scorer.name} gave {value} for {store.picture(members[index])}. Look at that "
                        "picture, and at the scorer's weights."
                    )
                fresh[index][scorer.fingerprint] = value
            computed += len(lacking)
        for key, scores in zip(members, fresh, strict=True):
            if scores:
                store.keep_scores(key, scores)
        progress(len(members))
    return computed


def write_table(
    folder: Path,
    drawings: list[tuple[str, int, int]],
    keys: list[str],
    scorers: list[dict[str, Any]],
    store: Store,
    categories: dict[str, str],
) -> None:
    """scores.csv: index, prompt, seed, image, perhaps category, then a column a scorer; and the pictures in images/.

    scorers: what `Scorer.about` says of each; their values are in the store. categories: of the prompts, may be empty.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    extra = ["category"] if categories else []
    writer.writerow(["index", "prompt", "seed", "image", *extra, *(scorer["name"] for scorer in scorers)])
    for number, ((prompt, seed, position), key) in enumerate(zip(drawings, keys, strict=True)):
        image = f"images/{number:05d}.png"
        link(store.picture(key), folder / image)
        kept = store.scores(key)
        values = [f"{kept[scorer['fingerprint']]:.9g}" for scorer in scorers]
        extra = [categories.get(prompt, "")] if categories else []
        writer.writerow([position, prompt, seed, image, *extra, *values])
    files.write_text(folder / "scores.csv", buffer.getvalue())
