"""What each round does, as the configs of the commands that do it."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mapolab.config.environment_values import KEY
from mapolab.config.identity import identity
from mapolab.config.pair_schema import Ranking
from mapolab.config.schema import Train
from mapolab.evaluation.store import DRAWING
from mapolab.files import short_hash
from mapolab.pairs.folder import ResultFolder
from mapolab.pairs.ranking import label_scale
from mapolab.runs import RunFolder

Config = dict[str, Any]

# So far are the rounds' seeds apart: a round's pictures take as many as a prompt has.
SEEDS_OF_A_ROUND = 1000
# The order of a round's phases.
PHASES = ("draw", "train", "export", "evaluate")


@dataclass(frozen=True)
class Round:
    """Round `number`, from 1, of the iteration in `folder`; config: the command's."""

    config: Config
    folder: Path
    number: int

    @property
    def path(self) -> Path:
        return self.folder / f"round-{self.number}"

    @property
    def model(self) -> Path:
        """The pipeline that the round ends with, and the next one begins with."""
        return self.path / "model"

    @property
    def seed(self) -> int:
        """Of the round's pictures, and of its training: order and noise differ from round to round."""
        return self.config["seed"] + SEEDS_OF_A_ROUND * (self.number - 1)

    @property
    def evaluated(self) -> bool:
        """Whether the round's model is evaluated when it is done."""
        evaluation = self.config["evaluation"]
        return bool(evaluation["after_training"] and evaluation["prompts"])

    def phases(self) -> tuple[str, ...]:
        return PHASES if self.evaluated else PHASES[:-1]

    def is_done(self, phase: str) -> bool:
        """Whether a phase has left all that it leaves."""
        if phase == "draw":
            return ResultFolder(self.path / "pairs", "pairs").is_finished()
        if phase == "train":
            # Its weights may go once the model is exported.
            return RunFolder(self.path / "run").finished or self.is_done("export")
        return (self.model / "model_index.json" if phase == "export" else self.path / "evaluation.json").is_file()

    def sweep(self) -> None:
        """Remove what a killed export left of an unfinished model, gigabytes for SDXL."""
        for folder in self.path.glob(f".{self.model.name}.*.tmp"):
            shutil.rmtree(folder, ignore_errors=True)

    def phase_config(self, phase: str) -> Config:
        """What the phase's process reads."""
        configs = {"draw": self._draw, "train": self._train, "export": self._export, "evaluate": self._evaluate}
        return configs[phase]()

    def _train(self) -> Config:
        """The command's own config, with the round's pairs and the model that the round begins with.

        A reference is that model too: it is what the run starts from.
        """
        run = {item.name: copy.deepcopy(self.config[item.name]) for item in fields(Train)}
        run |= {"seed": self.seed, "output_dir": str(self.path / "run")}
        run |= {key: self.config[key] for key in (KEY,) if key in self.config}
        run["data"] |= {"path": str(self.path / "pairs"), "split": None, "revision": None}
        run["evaluation"]["after_training"] = False  # it is a phase of its own
        if self.number > 1:
            before = Round(self.config, self.folder, self.number - 1).model
            # The exported pipeline has the VAE that the first one was given.
            own = {"revision": None, "variant": None, "vae": None, "vae_revision": None}
            run["model"] |= {"pretrained": str(before), **own}
        return run

    def _draw(self) -> Config:
        """make-pairs recipe=ranked, drawn as evaluations are; `run` has the model."""
        config, evaluation = self.config, self.config["evaluation"]
        ranking = {item.name: config[item.name] for item in fields(Ranking)}
        drawing = {key: evaluation[key] for key in (*DRAWING, "target_style", "batch_size")}
        judged = {} if config["data"]["allow_overlap"] else evaluation
        held_out = {f"held_out{key}": judged.get(name) for key, name in HELD_OUT.items()}
        placed = {"recipe": "ranked", "output_dir": str(self.path / "pairs"), "seed": self.seed, "models": None}
        shared = {"output_root": config["output_root"], "store": None, "devices": config["devices"]}
        pairs = ranking | drawing | held_out | {"drop_held_out": False} | placed | shared
        return {"pairs": pairs, "run": self._train(), "evaluation": evaluation if self.evaluated else None}

    def _export(self) -> Config:
        one = {"formats": ["pipeline"], "dtype": "float32", "name": None, "license": None, "push": None}
        return {"run": str(self.path / "run"), "to": str(self.model), "private": True, **one}

    def _evaluate(self) -> Config:
        """The round's run; in the first round also what it started from, as every later one did from the one before."""
        given = {"models": [str(self.path / "run")], "base": self.number == 1, "devices": self.config["devices"]}
        given["prompts"] = self.config["evaluation"]["prompts"]  # a URL is to be named by the command
        given |= {key: self.config[key] for key in (KEY,) if key in self.config}
        return {"evaluation": given | {"output_root": self.config["output_root"]}, "to": str(self.path)}


HELD_OUT = {"": "prompts", "_split": "split", "_revision": "revision"}


def iteration_identity(config: Config) -> Config:
    """What decides the models of all rounds, but for how many there are."""
    run = identity({item.name: config[item.name] for item in fields(Train)})
    ranking = {item.name: config[item.name] for item in fields(Ranking)}
    ranking["label_scale"] = label_scale(config["labels"], config["label_scale"], config["ranked_by"])
    drawing = {key: config["evaluation"][key] for key in (*DRAWING, "target_style")}
    return run | {"ranking": ranking, "drawing": drawing}


def iteration_folder(config: Config) -> Path:
    """`output_dir`, or `<output_root>/<name>/iterate-<objective>-seed<seed>-<hash>`."""
    if config["output_dir"]:
        return Path(config["output_dir"])
    name = f"iterate-{config['objective']['name']}-seed{config['seed']}-{short_hash(iteration_identity(config))}"
    return Path(config["output_root"]) / config["name"] / name
