"""The keys of the commands on finished models, and their types: see `config.schema`."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class Evaluate:
    models: Any = MISSING  # a list of names or mappings, or one of them
    base: bool = MISSING
    prompts: str | None = MISSING
    split: str | None = MISSING
    revision: str | None = MISSING
    limit: int | None = MISSING
    images_per_prompt: int | None = MISSING
    negative_prompt: str | None = MISSING
    steps: int | None = MISSING
    guidance_scale: float | None = MISSING
    scheduler: str | None = MISSING
    seed: int | None = MISSING
    batch_size: int | None = MISSING
    height: int | None = MISSING
    width: int | None = MISSING
    precision: str | None = MISSING
    target_style: str | None = MISSING
    scorers: Any = MISSING
    devices: Any = MISSING
    output_root: str = MISSING
    store: str | None = MISSING


@dataclass
class Compare:
    runs: Any = MISSING  # a list of folders, or one pattern
    base: str | None = MISSING
    different_settings: bool = MISSING
    beside: list[str] = MISSING
    output_dir: str | None = MISSING
    confidence: float = MISSING


@dataclass
class Export:
    run: str = MISSING
    to: str = MISSING
    formats: Any = MISSING  # a list of names, or auto
    dtype: str = MISSING
    name: str | None = MISSING
    license: str | None = MISSING
    push: str | None = MISSING
    private: bool = MISSING
