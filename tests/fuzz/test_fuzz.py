"""A few hundred files of strangers: whatever is in them, a command says the same numbers as without the damage, or one
paragraph; it needs no more time and memory than usual, and writes nowhere else.

Seeds make the damage, so that a failure can be repeated: its message has the seed.
"""

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from killing import Commands, Ended
from mutations import damage
from processes import arguments

pytestmark = pytest.mark.fuzz
SECRET = "token-5f3a91"
PROMISED = "the same numbers, or one paragraph; no more time, memory or files than usual"
MOST_SECONDS = 120
MOST_MEMORY = 3 << 30
DRAWN = ["steps=2", "height=16", "width=16", "batch_size=2", "precision=float32", "target_style=twemoji"]


@pytest.fixture(scope="module")
def material(module_config, make_pairs, tmp_path_factory) -> Path:
    """A run of four steps, evaluated, with its cache, and prompts."""
    folder = tmp_path_factory.mktemp("material")
    parquet.write_table(pa.Table.from_pylist(make_pairs(20)), folder / "pairs.parquet", row_group_size=8)
    (folder / "prompts.txt").write_text("a fox\nrain\ntwo boats\n")
    return folder


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Iterator[Commands]:
    os.environ["SECRET"] = SECRET
    with Commands(tmp_path_factory.mktemp("fuzz")) as server:
        yield server
    del os.environ["SECRET"]


class Workplace:
    """A folder with everything, made again for each damage; beside it a file that no command has to do with."""

    def __init__(self, commands: Commands, config: dict[str, Any], material: Path) -> None:
        self.commands, self.whole = commands, commands.folder / "whole"
        self.place, self.beside = commands.folder / "place", commands.folder / "outside"
        self.whole.mkdir()
        shutil.copytree(material, self.place)
        self.beside.mkdir()
        (self.beside / "file").write_text("untouched")
        self.train = self._train(config)
        for command in (self.train, self.evaluate, self.compare, self.export):
            ended = commands.run(command)
            assert ended.code == 0, ended.output
        self.numbers = {name: self.read(name) for name in ("train", "evaluate", "compare", "export")}
        self.whole.rmdir()
        shutil.copytree(self.place, self.whole)

    def _train(self, config: dict[str, Any]) -> list[str]:
        changes = {"trainer.max_steps": 4, "data.path": self.place / "pairs.parquet"}
        changes |= {"data.cache_folder": self.place / "cache", "output_root": self.place / "outputs"}
        return arguments(config, self.place / "run", **changes)

    @property
    def evaluate(self) -> list[str]:
        drawn = [f"prompts={self.place}/prompts.txt", "scorers=[pixel_distance,jpeg_size]", *DRAWN]
        return ["evaluate", f"models=[{self.place}/run]", f"output_root={self.place}/outputs", *drawn]

    @property
    def compare(self) -> list[str]:
        return ["compare", f"runs=[{self.place}/run]", f"output_dir={self.place}/comparison"]

    @property
    def export(self) -> list[str]:
        return ["export", f"run={self.place}/run", f"to={self.place}/exported", "formats=[unet]"]

    def anew(self) -> None:
        shutil.rmtree(self.place)
        shutil.copytree(self.whole, self.place)

    def read(self, name: str) -> Any:
        """What the command has to say again."""
        if name == "compare":
            with open(self.place / "comparison" / "scores_long.csv", newline="") as file:
                rows = list(csv.DictReader(file))
            return [tuple(row[key] for key in ("prompt", "image_seed", "scorer", "value")) for row in rows]
        folder = {"train": "run/unet", "evaluate": "run/evaluation", "export": "exported"}[name]
        wanted = ("*.safetensors",) if name != "evaluate" else ("*/scores.csv", "*/images/*.png")
        files = [file for pattern in wanted for file in sorted((self.place / folder).rglob(pattern))]
        return [file.read_bytes() for file in files]

    def check(self, name: str, ended: Ended, told: str) -> None:
        """The command went well with its own numbers, or said one paragraph."""
        assert ended.seconds < MOST_SECONDS and ended.memory < MOST_MEMORY, f"{told}\n{ended}"
        assert "Traceback" not in ended.output and ended.code in (0, 1, 2), f"{told}\n{ended.output[-3000:]}"
        assert SECRET not in ended.output, told
        if ended.code:
            said = [line for line in ended.output.splitlines() if line.startswith("mapolab: ")]
            assert len(said) == 1 and "\x1b" not in ended.output, f"{told}\n{ended.output}"
        else:
            assert self.read(name) == self.numbers[name], f"OTHER NUMBERS\n{told}\n{ended.output}"
        assert [file.read_text() for file in self.beside.iterdir()] == ["untouched"], told


@pytest.fixture(scope="module")
def workplace(commands, module_config, material) -> Workplace:
    return Workplace(commands, module_config, material)


def small_files(place: Path) -> list[Path]:
    """Those of the run that say something in words, of each kind one."""
    kinds = ["manifest.json", "config.yaml", "metrics.csv", "evaluation/*/settings.json", "evaluation/*/links.json"]
    kinds += ["evaluation/*/scores.csv", "evaluation/*/images/*.png", "unet/config.json"]
    return [next(iter(sorted((place / "run").glob(kind)))) for kind in kinds]


def outcomes(workplace: Workplace, name: str, seeds: range, prepare: Callable[[Random, Path], Path]) -> str:
    """Run a command on each seed's damage; how often it went well, and how often it refused. All failures are told.

    prepare: takes away what the command has to make, and returns the file to damage.
    """
    failures, refused = [], 0
    for seed in seeds:
        chance = Random(f"{name} {seed}")
        workplace.anew()
        file = prepare(chance, workplace.place)
        told = f"seed {seed}: {name} with {file.relative_to(workplace.place)}, {damage(file, chance)}"
        ended = workplace.commands.run(getattr(workplace, name))
        try:
            workplace.check(name, ended, told)
        except AssertionError as error:
            failures.append(str(error))
        refused += ended.code != 0
    assert not failures, f"{len(failures)} of {len(seeds)}:\n" + "\n\n".join(failures)
    return f"{len(seeds) - refused} times the same numbers, {refused} times one paragraph"


@pytest.mark.parametrize("name", ["compare", "evaluate", "export"])
def test_a_run_of_a_stranger(workplace, name, reliability) -> None:
    def prepare(chance: Random, place: Path) -> Path:
        shutil.rmtree(place / "exported")
        return chance.choice(small_files(place))

    seen = outcomes(workplace, name, range(50), prepare)
    reliability(f"50 damages to the small files of a run, then mapolab {name}", PROMISED, seen)


def test_a_run_that_is_continued(workplace, reliability) -> None:
    """As killed after its last checkpoint but one: its files, checkpoints, cache and index."""

    def prepare(chance: Random, place: Path) -> Path:
        run = place / "run"
        shutil.rmtree(run / "unet")
        shutil.rmtree(max(run.glob("checkpoints/step-*")))
        files = [run / "manifest.json", run / "config.yaml", run / "metrics.csv"]
        kept = [file for folder in (place / "cache", run / "checkpoints") for file in sorted(folder.rglob("*"))]
        return chance.choice([*files, *(file for file in kept if file.is_file())])

    seen = outcomes(workplace, "train", range(80), prepare)
    reliability("80 damages to a stopped run's files, checkpoints and cache, then mapolab train", PROMISED, seen)


def test_the_store_of_pictures_and_scores(workplace, reliability) -> None:
    def prepare(chance: Random, place: Path) -> Path:
        shutil.rmtree(place / "run" / "evaluation")
        return chance.choice(
            sorted(file for file in (place / "outputs").rglob("*") if file.is_file() and file.stat().st_size)
        )

    seen = outcomes(workplace, "evaluate", range(60), prepare)
    reliability("60 damages to kept pictures and scores, then mapolab evaluate", PROMISED, seen)
