"""The keys of the commands that make pairs; see `schema`."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class Ranking:
    """Which prompts, which scorers, which pairs are kept."""

    prompts: str | None = MISSING
    split: str | None = MISSING
    revision: str | None = MISSING
    limit: int | None = MISSING
    images_per_prompt: int = MISSING
    ranked_by: Any = MISSING  # a list of names, or of mappings with _target_ and settings
    scorers: Any = MISSING
    pairing: str = MISSING
    labels: str = MISSING
    label_scale: Any = MISSING  # a number, or auto
    weights: str = MISSING
    minimum_score: Any = MISSING  # a number, or numbers by scorer
    maximum_score: Any = MISSING
    maximum_of_either: Any = MISSING
    minimum_gap: Any = MISSING


@dataclass
class MakePairs(Ranking):
    recipe: str = MISSING
    output_dir: str = MISSING
    seed: int = MISSING
    models: Any = MISSING  # a list of names or mappings, or one of them
    chosen_prefix: str | None = MISSING
    rejected_prefix: str | None = MISSING
    chosen_suffix: str | None = MISSING
    rejected_suffix: str | None = MISSING
    targets: str | None = MISSING
    rejected_prompt: str | None = MISSING
    rejected_words: Any = MISSING  # a list of pairs of words
    votes: str | None = MISSING
    data_path: str | None = MISSING
    download_cache_gb: float = MISSING
    target_style: str | None = MISSING
    held_out: str | None = MISSING
    held_out_split: str | None = MISSING
    held_out_revision: str | None = MISSING
    drop_held_out: bool = MISSING
    negative_prompt: str | None = MISSING
    steps: int | None = MISSING
    guidance_scale: float | None = MISSING
    scheduler: str | None = MISSING
    height: int | None = MISSING
    width: int | None = MISSING
    precision: str | None = MISSING
    batch_size: int | None = MISSING
    devices: Any = MISSING
    output_root: str = MISSING
    store: str | None = MISSING
