"""What each round does, as the configs of the commands that do it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mapolab.config.environment_values import KEY
from mapolab.config.identity import identity
from mapolab.config.pair_schema import Ranking
from mapolab.config.schema import Train
from mapolab.errors import UserError
from mapolab.evaluation.store import DRAWING
from mapolab.export.folder import MANIFEST, ExportFolder
from mapolab.files import short_hash
from mapolab.output import PAIRS, check_inside
from mapolab.pairs.folder import ResultFolder
from mapolab.pairs.ranking import label_scale
from mapolab.runs import RunFolder, differences

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
        """Whether a phase has left all that it leaves. Raises UserError for what another iteration left."""
        if phase == "draw":
            pairs = ResultFolder(self.path / "pairs", PAIRS)
            self._check_ours(pairs.path, pairs.manifest().get("made_for"), self.token)
            return pairs.is_finished()
        if phase == "train":
            self._check_run()
            # Its weights may go once the model is exported.
            return RunFolder(self.path / "run").finished or self.is_done("export")
        if phase == "export":
            return self._is_exported()
        return (self.path / "evaluation.json").is_file()

    def _is_exported(self) -> bool:
        if (self.model / MANIFEST).is_file():
            model = ExportFolder(self.model)
            run = RunFolder(self.path / "run").identity
            self._check_ours(self.model, model.manifest()["settings"].get("run"), run)
            return model.is_whole()
        return (self.model / "model_index.json").is_file()  # as earlier versions left it

    def _check_run(self) -> None:
        saved = RunFolder(self.path / "run").config()
        if saved and (changed := differences(*(_placeless(identity(one)) for one in (saved, self._train())))):
            raise UserError(
                f"{self.path / 'run'} was trained in another way than this iteration trains ({'; '.join(changed)}). "
                "Move it away; then the same command trains the round's own."
            )

    def _check_ours(self, folder: Path, found: str | None, ours: str | None) -> None:
        """Earlier versions noted nothing."""
        if None not in (found, ours) and found != ours:
            raise UserError(
                f"{folder} was not made by this round of this iteration, but was put there from another one. Move it "
                "away; then the same command makes the round's own."
            )

    @property
    def token(self) -> str:
        """What the round's pairs carry, so that they are told from those of other iterations and rounds."""
        return f"{short_hash(iteration_identity(self.config))}/{self.number}"

    def check_places(self) -> None:
        """Raise UserError where the round would be written elsewhere, by a symbolic link."""
        for name in ("pairs", "run", self.model.name, "phases"):
            check_inside(self.folder, self.path / name)

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
        pairs = ranking | drawing | held_out | {"drop_held_out": False, "made_for": self.token} | placed | shared
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


def _placeless(run: Config) -> Config:
    """Without the two paths of a round, which depend on where its iteration lies."""
    places = {"data": ("path",), "model": ("pretrained",)}
    return run | {block: {k: v for k, v in run[block].items() if k not in keys} for block, keys in places.items()}


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
