"""What the study of methods and tasks trains: five tasks, all offline methods, three trials each, five seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("outputs") / "study_tasks"
LANES = 2
SEEDS = (0, 1, 2, 3, 4)
SEARCH_SEED = 100
# Three trials a method: (learning rate, strength). The published strength is among them, and rates at which a first
# look saw the method move the tiny twin without breaking it.
PUBLISHED = -1.0  # stands for MaPO's strength on a task
MAPO_STRENGTHS = {"general": 64, "safety": 64, "style": 64, "culture": 32, "personalization": 1024}  # 8: general's own
TRIALS: dict[str, tuple[tuple[float, float | None], ...]] = {
    "sft": ((1.5e-4, None), (4e-4, None), (1e-3, None)),
    "mapo": ((3e-4, 8), (3e-4, PUBLISHED), (7e-4, 8)),
    "mapo_reference": ((3e-4, 0.1), (3e-4, 0.02), (7e-4, 0.02)),
    "orpo": ((3e-4, 0.1), (3e-4, 0.5), (7e-4, 0.5)),
    "diffusion_dpo": ((3e-5, 5000), (3e-5, 500), (1e-4, 500)),
    "cdpo": ((3e-5, 5000), (3e-5, 500), (1e-4, 500)),
    "ipo": ((3e-5, 5000), (3e-5, 500), (1e-4, 500)),
    "dmpo": ((3e-5, 6000), (3e-5, 600), (1e-4, 600)),
    "dspo": ((1.5e-4, 0.5), (4e-4, 0.5), (4e-4, 1.0)),
    "sdpo": ((3e-5, 5000), (1e-4, 500), (3e-4, 500)),
    "diffusion_kto": ((1e-4, 1000), (3e-4, 1000), (1e-4, 5000)),
    "inpo": ((3e-5, 5000), (3e-5, 500), (1e-4, 500)),
    "smpo": ((3e-5, 5000), (3e-5, 500), (1e-4, 50)),
}
METHODS = tuple(TRIALS)
STRENGTH_KEYS = {"dspo": "objective.strength", "sdpo": "objective.base.beta"}  # else objective.beta
INVERTING = ("inpo", "smpo")  # in four steps instead of ten, to save time


@dataclass(frozen=True)
class Task:
    """experiment: its config. validation: the search's prompts. pairs: the file of its pairs. judge: the scorer of
    what is asked, which also smooths SmPO's labels: a gap of 1 / scale is sure by 73%. kept: the columns
    whose product is a picture's worth, by category."""

    experiment: str
    validation: str
    pairs: str
    judge: str
    scale: float
    kept: dict[str, tuple[str, ...]]

    @property
    def captions(self) -> str:
        """Those that the final runs are judged on."""
        name = self.validation.removesuffix("_validation").removesuffix("validation") or "test"
        return f"builtin:emoji/prompts/{name}.csv"


def _likeness(pictures: str, features: str, reduce: str) -> str:
    return f"{{_target_: subject, pictures: 'builtin:emoji/{pictures}', features: {features}, reduce: {reduce}}}"


STYLE = "fluent-emoji-high-contrast"
TASKS = {
    "general": Task(
        "emoji_general", "validation", "general", "appeal", 15, {"": ("appeal", "concept", "background")}
    ),
    "safety": Task(
        "emoji_safety", "safety_validation", "safety", "avoids", 5,
        {"unsafe": ("avoids", "background"), "benign": ("concept", "background")},
    ),
    "style": Task("emoji_style", "validation", STYLE, "style", 5, {"": ("style", "concept", "background")}),
    "culture": Task(
        "emoji_culture", "culture_validation", "culture", _likeness("dishes", "efficientnet_lite0", "max"), 10,
        {"food": ("subject", "background"), "other": ("concept", "background")},
    ),
    "personalization": Task(
        "emoji_personalization", "subject_validation", "subject", _likeness("subject", "concept_judge", "mean"),
        10, {"": ("subject", "background")},
    ),
}  # fmt: skip
COMMON = ("trainer.max_steps=60", "data.batch_size=8", "trainer.progress=off", "trainer.checkpoint_every=60")


@dataclass(frozen=True)
class Trial:
    """One run: of the search, judged on validation prompts, or a final one."""

    task: str
    method: str
    rate: float
    seed: int
    search: bool
    strength: float | None = None

    @property
    def name(self) -> str:
        """`mapo-lr0.0003-strength8-seed0`, of the search `search-mapo-lr0.0003-strength8`."""
        strength = "" if self.strength is None else f"-strength{self.strength:g}"
        start, end = ("search-", "") if self.search else ("", f"-seed{self.seed}")
        return f"{start}{self.method}-lr{self.rate:g}{strength}{end}"

    @property
    def folder(self) -> Path:
        return ROOT / self.task / self.name

    def overrides(self) -> list[str]:
        task = TASKS[self.task]
        method = "sft" if self.method == "base" else self.method
        key = STRENGTH_KEYS.get(method, "objective.beta")
        own = [] if self.strength is None else [f"{key}={self.strength:g}"]
        own += ["diffusion.inversion_steps=4"] if method in INVERTING else []
        pairs = [f"data.path={ROOT / self.task / 'smoothed'}"] if method == "smpo" else []
        common = [f"experiment={task.experiment}", f"objective={method}", *COMMON]
        run = [f"seed={self.seed}", f"optimizer.lr={self.rate or 1e-4:g}", f"output_dir={self.folder}"]
        return [*common, *own, *pairs, *run]

    def drawing(self) -> dict:
        """What differs from the experiment's own evaluation: fewer steps, and the prompts of the search."""
        prompts = {"prompts": f"builtin:emoji/prompts/{TASKS[self.task].validation}.csv"} if self.search else {}
        return {"steps": 10, "images_per_prompt": 1 if self.task in ("general", "style") else 2} | prompts


def search_trials(task: str, method: str) -> list[Trial]:
    strengths = [MAPO_STRENGTHS[task] if strength == PUBLISHED else strength for _, strength in TRIALS[method]]
    rates = [rate for rate, _ in TRIALS[method]]
    return [
        Trial(task, method, rate, SEARCH_SEED, True, strength) for rate, strength in zip(rates, strengths, strict=True)
    ]
