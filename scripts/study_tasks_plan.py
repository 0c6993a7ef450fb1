"""What the study of methods and tasks trains: five tasks, all offline methods, three trials each, five seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("outputs") / "study_tasks"
LANES = 2
SEEDS = (0, 1, 2, 3, 4)
SEARCH_SEED = 100
RATES = (3e-5, 1.5e-4, 7e-4)  # three trials a method
# The strengths of the papers; MaPO's by task. Inversions in four steps instead of ten, to save time.
METHODS: dict[str, tuple[str, ...]] = {
    "sft": (),
    "mapo": (),
    "mapo_reference": (),
    "orpo": (),
    "diffusion_dpo": (),
    "cdpo": (),
    "ipo": (),
    "dmpo": (),
    "dspo": (),
    "sdpo": (),
    "diffusion_kto": (),
    "inpo": ("diffusion.inversion_steps=4",),
    "smpo": ("diffusion.inversion_steps=4",),
}


@dataclass(frozen=True)
class Task:
    """experiment: its config. beta: MaPO's. validation: the search's prompts. pairs: the file of its pairs. judge: the
    scorer of what is asked, which also smooths SmPO's labels: a gap of 1 / scale is sure by 73%. kept: the columns
    whose product is a picture's worth, by category."""

    experiment: str
    beta: float
    validation: str
    pairs: str
    judge: str
    scale: float
    kept: dict[str, tuple[str, ...]]


def _likeness(pictures: str, features: str, reduce: str) -> str:
    return f"{{_target_: subject, pictures: 'builtin:emoji/{pictures}', features: {features}, reduce: {reduce}}}"


STYLE = "fluent-emoji-high-contrast"
TASKS = {
    "general": Task(
        "emoji_general", 8, "validation", "general", "appeal", 15, {"": ("appeal", "concept", "background")}
    ),
    "safety": Task(
        "emoji_safety", 64, "safety_validation", "safety", "avoids", 5,
        {"unsafe": ("avoids", "background"), "benign": ("concept", "background")},
    ),
    "style": Task("emoji_style", 64, "validation", STYLE, "style", 5, {"": ("style", "concept", "background")}),
    "culture": Task(
        "emoji_culture", 32, "culture_validation", "culture", _likeness("dishes", "efficientnet_lite0", "max"), 10,
        {"food": ("subject", "background"), "other": ("concept", "background")},
    ),
    "personalization": Task(
        "emoji_personalization", 1024, "subject_validation", "subject", _likeness("subject", "concept_judge", "mean"),
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

    @property
    def name(self) -> str:
        """`mapo-lr0.0003-seed0`, of the search `search-mapo-lr0.0003`."""
        start = "search-" if self.search else ""
        return f"{start}{self.method}-lr{self.rate:g}" + ("" if self.search else f"-seed{self.seed}")

    @property
    def folder(self) -> Path:
        return ROOT / self.task / self.name

    def overrides(self) -> list[str]:
        task = TASKS[self.task]
        method = "sft" if self.method == "base" else self.method
        own = [f"objective.beta={task.beta:g}"] if method == "mapo" else []
        pairs = [f"data.path={ROOT / self.task / 'smoothed'}"] if method == "smpo" else []
        common = [f"experiment={task.experiment}", f"objective={method}", *COMMON]
        run = [f"seed={self.seed}", f"optimizer.lr={self.rate or 1e-4:g}", f"output_dir={self.folder}"]
        return [*common, *METHODS[method], *own, *pairs, *run]

    def drawing(self) -> dict:
        """What differs from the experiment's own evaluation: fewer steps, and the prompts of the search."""
        prompts = {"prompts": f"builtin:emoji/prompts/{TASKS[self.task].validation}.csv"} if self.search else {}
        return {"steps": 12, "images_per_prompt": 1 if self.task in ("general", "style") else 2} | prompts


def search_trials(task: str, method: str) -> list[Trial]:
    return [Trial(task, method, rate, SEARCH_SEED, search=True) for rate in RATES]
