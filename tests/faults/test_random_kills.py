"""Each command killed at random until it has been killed twenty times: what it leaves in the end is what an undisturbed
one leaves, and nothing else lies beside it."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from killing import Commands
from processes import PATIENCE, start

pytestmark = pytest.mark.faults
KILLS = 20
MEASURED = ("started", "finished", "restarts", "wall_seconds", "command", "seconds", "hardware", "checksums")
MEASURED += ("samples_per_second", "step_time_seconds", "peak_memory_gib")


@dataclass(frozen=True)
class Killed:
    """A command that is to be killed. arguments: of a folder. results: the folders in it whose files are compared."""

    arguments: Callable[[Path], list[str]]
    results: tuple[str, ...]
    by_time_only: bool = False


@pytest.fixture(scope="module")
def material(module_config, make_pairs, tmp_path_factory) -> Path:
    """A finished run and an evaluated one, pairs and prompts; copied for each attempt, so that names are the same."""
    folder = tmp_path_factory.mktemp("material")
    process = start(module_config, folder / "run", **{"trainer.max_steps": 4})
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    parquet.write_table(pa.Table.from_pylist(make_pairs(60)), folder / "pairs.parquet", row_group_size=20)
    (folder / "prompts.txt").write_text("a fox\nrain\ntwo boats\na red kite\na horse\nsnow\n")
    return folder


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Iterator[Commands]:
    with Commands(tmp_path_factory.mktemp("kills")) as server:
        yield server


DRAWN = ["steps=2", "height=16", "width=16", "batch_size=2", "precision=float32"]


def evaluate(place: Path) -> list[str]:
    drawn = [f"prompts={place}/prompts.txt", "scorers=[pixel_distance,jpeg_size]", "target_style=twemoji", *DRAWN]
    return ["evaluate", f"models=[{place}/run]", f"output_root={place}/outputs", *drawn]


def export(place: Path) -> list[str]:
    return ["export", f"run={place}/run", f"to={place}/exported", "formats=[pipeline,unet]"]


def compare(place: Path) -> list[str]:
    return ["compare", f"runs=[{place}/run]", f"output_dir={place}/comparison"]


def prepare(model: str) -> Callable[[Path], list[str]]:
    def arguments(place: Path) -> list[str]:
        given = [f"data.path={place}/pairs.parquet", f"data.cache_folder={place}/cache", f"model.pretrained={model}"]
        return ["prepare", "data=parquet_pairs", "data.cache=true", "data.resolution=16", "evaluation=pictures", *given]

    return arguments


def make_the_pairs(model: str) -> Callable[[Path], list[str]]:
    def arguments(place: Path) -> list[str]:
        judged = ["ranked_by=[style]", "target_style=twemoji", "images_per_prompt=3", f"prompts={place}/prompts.txt"]
        placed = [f"models={model}", f"output_root={place}/outputs", f"output_dir={place}/pairs"]
        return ["make-pairs", "recipe=ranked", *judged, *DRAWN, *placed]

    return arguments


def iterate(model: str) -> Callable[[Path], list[str]]:
    def arguments(place: Path) -> list[str]:
        drawn = ["rounds=1", f"prompts={place}/prompts.txt", "images_per_prompt=2", "ranked_by=[style]"]
        judged = [f"evaluation.{item}" for item in (f"prompts={place}/prompts.txt", "steps=2", "scorers=[jpeg_size]")]
        data = ["data.preferred_style=twemoji", "data.resolution=16", "data.batch_size=2", "data.allow_overlap=true"]
        trained = ["trainer.max_steps=6", "trainer.checkpoint_every=2", "trainer.progress=off", "optimizer.lr=1e-3"]
        placed = [f"model.pretrained={model}", f"output_root={place}/outputs", f"output_dir={place}/rounds"]
        return ["iterate", "objective=diffusion_dpo", *drawn, *judged, *data, *trained, *placed]

    return arguments


@pytest.fixture
def killed(request: pytest.FixtureRequest, tiny_pipeline_folder: Path) -> Killed:
    model = str(tiny_pipeline_folder)
    return {
        "evaluate": Killed(evaluate, ("run", "outputs")),
        "export": Killed(export, ("exported",)),
        "compare": Killed(compare, ("comparison",)),
        "prepare": Killed(prepare(model), ("cache",)),
        "make-pairs": Killed(make_the_pairs(model), ("pairs", "outputs")),
        # Its phases are processes of their own, whose files are not watched.
        "iterate": Killed(iterate(model), ("rounds",), by_time_only=True),
    }[request.param]


NAMES = ("evaluate", "export", "compare", "prepare", "make-pairs", "iterate")


@pytest.mark.parametrize(("killed", "name"), [(name, name) for name in NAMES], indirect=["killed"], ids=NAMES)
def test_killed_at_random_it_ends_as_an_undisturbed_one(killed, name, commands, material, reliability) -> None:
    place, chance = commands.folder / name, random.Random(name)

    def anew() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(material, place)
        if name == "compare":
            assert commands.run(evaluate(place)).code == 0

    anew()
    whole = commands.run(killed.arguments(place))
    assert whole.code == 0, whole.output
    expected = content(place, killed.results)
    anew()
    kills, finishes = 0, 0
    while kills < KILLS:
        if killed.by_time_only or kills % 2:
            ended = commands.run(killed.arguments(place), after=chance.uniform(0, whole.seconds))
        else:
            ended = commands.run(killed.arguments(place), at=chance.randint(1, whole.boundaries))
        if ended.code == -9:
            kills += 1
            continue
        assert ended.code == 0, ended.output
        finishes += 1
        assert content(place, killed.results) == expected
        anew()
    last = commands.run(killed.arguments(place))
    assert last.code == 0, last.output
    assert content(place, killed.results) == expected
    reliability(
        f"kill -9 at {KILLS} random moments and file boundaries of mapolab {name}",
        "the same command goes on and ends with the same files; nothing half-written stays",
        f"{finishes + 1} times brought to its end, each time with the files of an undisturbed one",
    )


def content(place: Path, results: tuple[str, ...]) -> dict[str, bytes | str]:
    """Every file, hidden ones too, without what tells of time."""
    found: dict[str, bytes | str] = {}
    for result in results:
        for file in sorted((place / result).rglob("*")):
            if file.is_file() and file.name != ".lock" and ".cache" not in file.parts:
                found[file.relative_to(place).as_posix()] = settled(file)
    return found


def settled(file: Path) -> bytes | str:
    if file.name in ("manifest.json", "run_manifest.json"):
        manifest = json.loads(file.read_text())
        return repr({key: value for key, value in manifest.items() if key not in MEASURED})
    if file.name == "export.json":  # its sizes of files, one of which tells of time
        exported = json.loads(file.read_text())
        return repr(exported | {"files": sorted(exported.get("files", []))})
    if file.name == "metrics.csv":
        return "\n".join(line.rsplit(",", 2)[0] for line in file.read_text().splitlines())
    return file.read_bytes()
