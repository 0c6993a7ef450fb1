"""What the study trains: three sizes of reference mismatch, six methods, one search budget, five seeds.

The base is always the tiny twin; the pairs prefer a style that was common, rare or absent in what it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

STUDY = Path("outputs") / "study"
# The preferred style and its share of the base's training pictures of the pairs' concepts (docs/tiny_twin.md).
MISMATCHES = {
    "common": ("fluent-emoji-flat", 0.35),
    "rare": ("twemoji", 0.10),
    "absent": ("fluent-emoji-high-contrast", 0.0),
}
RATES = (3e-5, 1e-4, 3e-4)
# Six trials a method: three rates with two strengths, published or usual ones; SFT, which has no strength, six rates.
STRENGTHS = {
    "mapo": (8, 64),
    "mapo_reference": (0.1, 0.02),
    "diffusion_dpo": (5000, 2000),
    "diffusion_kto": (1000, 5000),
    "orpo": (0.1, 0.5),
}
SFT_RATES = (3e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3)
OBJECTIVES = ("sft", *STRENGTHS)
SEEDS = (0, 1, 2, 3, 4)
SEARCH_SEED = 100
# The same for every run; a trial of the search is as long as a final run.
COMMON = ("experiment=emoji_style", "trainer.max_steps=60", "data.batch_size=8", "trainer.progress=off")


@dataclass(frozen=True)
class Trial:
    """One point of a method's grid. strength: `objective.beta`; None for a method without one."""

    objective: str
    rate: float
    strength: float | None

    @property
    def name(self) -> str:
        """`mapo-lr0.0001-beta8`"""
        return f"{self.objective}-lr{self.rate:g}" + ("" if self.strength is None else f"-beta{self.strength:g}")

    def overrides(self, mismatch: str, seed: int) -> list[str]:
        beta = [] if self.strength is None else [f"objective.beta={self.strength:g}"]
        style = f"data.preferred_style={MISMATCHES[mismatch][0]}"
        return [*COMMON, f"objective={self.objective}", *beta, f"optimizer.lr={self.rate:g}", style, f"seed={seed}"]


def trials(objective: str) -> list[Trial]:
    """The method's grid: six trials for every method."""
    if objective == "sft":
        return [Trial("sft", rate, None) for rate in SFT_RATES]
    return [Trial(objective, rate, strength) for strength, rate in product(STRENGTHS[objective], RATES)]


def search_folder(mismatch: str, trial: Trial) -> Path:
    return STUDY / mismatch / "search" / trial.name


def final_folder(mismatch: str, trial: Trial, seed: int) -> Path:
    return STUDY / mismatch / "runs" / f"{trial.objective}-seed{seed}"
