"""Run folders as `train` and `evaluate` leave them, with small real pictures."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from mapolab.files import short_hash

ABOUT = ("name", "kind", "higher_is_better", "minimum", "maximum", "description")
SCORERS = [
    ("style", "score", True, 0.0, 1.0, "probability of the preferred drawing style"),
    ("concept", "accuracy", True, 0.0, 1.0, "the picture shows the concept that the prompt names"),
    ("pixel_distance", "distance", False, 0.0, None, "distance to real pictures of the preferred style"),
]
COLOURS = {"red": (214, 69, 65), "blue": (65, 105, 225), "green": (46, 139, 87), "yellow": (240, 200, 60)}
# Mean of each score by method; what a method's curves tend to.
MEANS = {
    "base": {"style": 0.05, "concept": 0.9, "pixel_distance": 5.0},
    "sft": {"style": 0.30, "concept": 0.85, "pixel_distance": 3.5},
    "mapo": {"style": 0.75, "concept": 0.9, "pixel_distance": 2.0},
    "diffusion_dpo": {"style": 0.60, "concept": 0.4, "pixel_distance": 6.5},
}
Draw = Callable[[str, int], Image.Image]


class Workshop:
    """Makes run folders under one folder, all evaluated on the same prompts."""

    def __init__(self, root: Path, prompts: int = 12, draw: Draw | None = None):
        colours = list(COLOURS)
        self.root, self.draw = root, draw or draw_shape
        self.prompts = [f"shape {index} on a {colours[index % len(colours)]} background" for index in range(prompts)]
        self.settings = {
            "prompts": "builtin:emoji/prompts/test.csv",
            "steps": 20,
            "guidance_scale": 3.0,
            "seed": 1234,
            "height": 64,
            "width": 64,
            "prompt_count": prompts,
            "scheduler": "EulerDiscreteScheduler",
            "scorers": [dict(zip(ABOUT, scorer, strict=True)) for scorer in SCORERS],
        }

    @property
    def hash(self) -> str:
        return short_hash(self.settings)

    def base(self) -> Path:
        folder = self.root / "base-12345678"
        manifest = {"status": "finished", "objective": {"name": "base"}, "label": "base", "seed": None}
        write(folder / "manifest.json", json.dumps(manifest))
        self.evaluate(folder, "base", 0)
        return folder

    def run(
        self,
        name: str,
        seed: int = 0,
        evaluated: bool = True,
        learning_rate: float = 1e-4,
        noise: int = 0,
        config: dict | None = None,
        **fields,
    ) -> Path:
        """A run of the objective `name`; `fields` replace those of its manifest; noise: of its scores; config: settings
        by dotted key, `...` for one that its version did not have."""
        objective = {"name": name} | ({} if name == "sft" else {"beta": 8})
        changes, config = (
            config or {},
            {
                "name": "emoji_style",
                "seed": seed,
                "objective": objective,
                "optimizer": {"lr": learning_rate},
                "data": {"path": "pairs.parquet", "batch_size": 4, "num_workers": 0},
                "trainer": {"max_steps": 40, "gradient_accumulation": 1, "log_every": 1},
                "strategy": {"devices": 1, "num_nodes": 1},
            },
        )
        for key, value in changes.items():
            *blocks, last = key.split(".")
            block = config
            for one in blocks:
                block = block.setdefault(one, {})
            if value is ...:
                block.pop(last, None)
            else:
                block[last] = value
        folder = self.root / f"{name}-seed{seed}-{short_hash(config)}"
        write(folder / "config.yaml", yaml.safe_dump(config))
        write(folder / "manifest.json", json.dumps(new_manifest(objective, seed) | fields))
        write_metrics(folder / "metrics.csv", name, seed, 40)
        if evaluated:
            self.evaluate(folder, name, seed + 1000 * noise)
            links = folder / "evaluation" / self.hash / "links.json"
            write(links, json.dumps({"base": "../base-12345678"}))
        return folder

    def evaluate(self, folder: Path, name: str, seed: int) -> None:
        evaluation = folder / "evaluation" / self.hash
        write(evaluation / "settings.json", json.dumps(self.settings))
        hardness = np.random.default_rng(0).normal(size=len(self.prompts))
        generator = np.random.default_rng([1, seed, len(name), ord(name[0])])
        rows = []
        columns = [about["name"] for about in self.settings["scorers"]]
        for index, prompt in enumerate(self.prompts):
            image = f"images/{index:05d}.png"
            (evaluation / "images").mkdir(exist_ok=True)
            self.draw(name, index).save(evaluation / image)
            scores = [score(name, scorer, hardness[index], generator) for scorer, *_ in SCORERS[: len(columns)]]
            rows.append([index, prompt, self.settings["seed"], image, *(f"{value:.6g}" for value in scores)])
        header = ["index", "prompt", "seed", "image", *columns]
        write_csv(evaluation / "scores.csv", [header, *rows])


def score(name: str, scorer: str, hardness: float, generator: np.random.Generator) -> float:
    mean = MEANS[name][scorer]
    if scorer == "concept":
        return float(generator.random() + 0.05 * hardness < mean)
    if scorer == "style":
        return float(np.clip(mean + 0.1 * hardness + generator.normal(0, 0.1), 0, 1))
    return abs(mean + 0.5 * hardness + generator.normal(0, 0.4))


def new_manifest(objective: dict, seed: int) -> dict:
    settings = "".join(f" {key}={value}" for key, value in objective.items() if key != "name")
    return {
        "status": "finished",
        "name": "emoji_style",
        "objective": objective,
        "seed": seed,
        "label": objective["name"] + settings,
        "command": "mapolab train",
        "versions": {"python": "3.11.9", "mapolab": "0.1.0", "torch": "2.14.1", "lightning": "2.6.6"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "hardware": {"cpu": "some processor", "cores": 2, "accelerator": "cpu", "threads": 2},
        "data_fingerprint": "a1b2c3d4",
        "started": "2026-01-31T12:00:00+00:00",
        "finished": "2026-01-31T12:02:10+00:00",
        "wall_seconds": 130.4 + seed,
        "restarts": 0,
        "samples_per_second": 41.5 if objective["name"] == "mapo" else 33.3,
        "step_time_seconds": 0.385,
        "peak_memory_gib": 1.234 + 0.01 * seed,
        "steps": 40,
    }


def write_metrics(file: Path, name: str, seed: int, steps: int) -> None:
    """Curves that tend to somewhere, with noise; SFT has no rejected error, margin or accuracy."""
    generator = np.random.default_rng([2, seed])
    pace = {"sft": 0.3, "mapo": 0.6, "diffusion_dpo": 1.0}[name]
    header = ["step", "loss", "error_chosen", "error_rejected", "margin", "implicit_accuracy", "gradient_norm"]
    rows = []
    for step in range(steps):
        learnt = pace * (1 - math.exp(-4 * step / steps))
        noise = generator.normal(size=6)
        chosen, rejected = 0.12 - 0.03 * learnt + 0.01 * noise[0], 0.11 + 0.05 * learnt + 0.01 * noise[1]
        accuracy = np.clip(0.5 + 0.45 * learnt + 0.06 * noise[2], 0, 1)
        pair = ["", "", ""] if name == "sft" else [rejected, 0.1 * learnt + 0.01 * noise[3], accuracy]
        loss = 0.69 - 0.4 * learnt + 0.02 * noise[4] if name != "sft" else chosen
        rows.append([step, loss, chosen, *pair, 1 + 0.2 * noise[5] ** 2])
    write_csv(file, [header, *rows])


def draw_shape(name: str, index: int) -> Image.Image:
    """A disc that each method draws in its own size."""
    picture = Image.new("RGB", (64, 64), list(COLOURS.values())[index % len(COLOURS)])
    radius = 8 + 5 * list(MEANS).index(name)
    ImageDraw.Draw(picture).ellipse([32 - radius, 32 - radius, 32 + radius, 32 + radius], fill=(250, 250, 250))
    return picture


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def write_csv(file: Path, rows: list[list]) -> None:
    with open(file, "w", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows(rows)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    """Three methods of one seed and their base, made when a test asks for them, from inside of the runs' parent."""
    monkeypatch.chdir(tmp_path)
    yield Workshop(Path("outputs/emoji_style"))


@pytest.fixture
def three_methods(workshop: Workshop) -> Workshop:
    workshop.base()
    for name in ("sft", "mapo", "diffusion_dpo"):
        workshop.run(name)
    return workshop
