"""Scores for pictures of the store, each computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from mapolab.errors import RunError
from mapolab.evaluation.prompt_table import PromptRow
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scores_table import Picture, scores_text
from mapolab.evaluation.store import Store, link


class Pictures(Protocol):
    """Pictures by key, as the store has them."""

    def picture(self, key: str) -> object:
        """Where it lies, for people."""
        ...

    def load_picture(self, key: str) -> Image.Image:
        """In RGB. Raises UserError for a broken one."""
        ...


def score_pictures(
    scorers: list[Scorer],
    keys: list[str],
    prompts: list[str],
    store: Store,
    group: int,
    share: tuple[int, int],
    progress: Callable[[int], None],
    pictures: Pictures | None = None,
) -> int:
    """Score this process's share of the pictures with every scorer that has not seen them; returns how many scores.

    share: (rank, processes), which takes whole groups as `generate` does. A group that lacks some scores is judged as a
    whole: what stands beside a picture in its batch can change a last bit. pictures: where they lie, if not in the
    store. Raises RunError for a score that is not finite, UserError for a broken picture.
    """
    rank, processes = share
    pictures = pictures or store
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
            values = scorer.judge_all([pictures.load_picture(key) for key in members], texts)
            for index in lacking:
                if not math.isfinite(values[index]):
                    raise RunError(
                        f"The scorer {scorer.name} gave {values[index]} for {pictures.picture(members[index])}. Look "
                        "at that picture, and at the scorer's weights."
                    )
                fresh[index][scorer.fingerprint] = values[index]
            computed += len(lacking)
        for key, scores in zip(members, fresh, strict=True):
            if scores:
                store.keep_scores(key, scores)
        progress(len(members))
    return computed


def write_pictures(
    folder: Path,
    rows: Sequence[PromptRow],
    drawings: list[tuple[str, int, int]],
    keys: list[str],
    scorers: list[dict[str, Any]],
    store: Store,
) -> str:
    """Put the pictures into images/; returns the text of scores.csv.

    drawings: (prompt, seed, position in `rows`) of each. scorers: what `Scorer.about` says of each; their values are in
    the store.
    """
    pictures = []
    for number, ((prompt, seed, position), key) in enumerate(zip(drawings, keys, strict=True)):
        image = f"images/{number:05d}.png"
        link(store.picture(key), folder / image)
        row = rows[position]
        about = {"category": row.category, "cluster": row.cluster}
        pictures.append(Picture(index=position, prompt=prompt, seed=seed, image=image, **about))
    kept = [store.scores(key) for key in keys]
    return scores_text(
        pictures, {scorer["name"]: [scores[scorer["fingerprint"]] for scores in kept] for scorer in scorers}
    )
