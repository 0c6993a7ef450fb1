"""What the study trains: bases that saw the preferred style often, rarely or never, six methods, one search budget.

A base is the tiny twin, trained on by SFT on pictures of the pairs: of the preferred style in the given share, of the
usual style for the rest. All bases get the same number of updates, so they differ in nothing but what they saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

STUDY = Path("outputs") / "study"
# Share of the preferred style in what the base was last trained on: from small to large reference mismatch.
MISMATCHES = {"common": 0.5, "rare": 0.1, "absent": 0.0}
RATES = (1e-5, 1e-4, 5e-4)
# Six trials a method: three rates with the two published or usual strengths; SFT, which has no strength, six rates.
STRENGTHS = {
    "mapo": (8, 64),
    "mapo_reference": (0.1, 0.02),
    "diffusion_dpo": (5000, 2000),
    "diffusion_kto": (1000, 5000),
    "orpo": (0.1, 0.5),
}
SFT_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 5e-4, 1e-3)
OBJECTIVES = ("sft", *STRENGTHS)
SEEDS = (0, 1, 2, 3, 4)
SEARCH_SEED = 100
# The same for every run; a search trial is as long as a final run.
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
        base = f"model.pretrained={base_pipeline(mismatch)}"
        return [*COMMON, f"objective={self.objective}", *beta, f"optimizer.lr={self.rate:g}", base, f"seed={seed}"]


def trials(objective: str) -> list[Trial]:
    """The method's grid: six trials for every method."""
    if objective == "sft":
        return [Trial("sft", rate, None) for rate in SFT_RATES]
    return [Trial(objective, rate, strength) for strength, rate in product(STRENGTHS[objective], RATES)]


def base_run(mismatch: str) -> Path:
    return STUDY / "bases" / mismatch / "run"


def base_pipeline(mismatch: str) -> Path:
    return STUDY / "bases" / mismatch / "pipeline"


def base_overrides(mismatch: str) -> list[str]:
    """SFT with labels turned round: the chosen picture is then of the usual style, not of the preferred one."""
    flipped = f"data.label_flip_probability={1 - MISMATCHES[mismatch]:g}"
    steps = ("trainer.max_steps=300", "trainer.progress=off")
    return ["experiment=emoji_style", "objective=sft", "optimizer.lr=3e-4", *steps, flipped, "seed=7"]


def search_folder(mismatch: str, trial: Trial) -> Path:
    return STUDY / mismatch / "search" / trial.name


def final_folder(mismatch: str, trial: Trial, seed: int) -> Path:
    return STUDY / mismatch / "runs" / f"{trial.objective}-seed{seed}"
