"""Values that nobody means, for every key of each command: the command goes through, or says one paragraph."""

import json
import shutil
from collections.abc import Iterator
from random import Random

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from killing import Commands
from mutations import VALUES
from processes import arguments

from mapolab.config.load import known_keys

pytestmark = pytest.mark.fuzz
CASES = 30
MOST_SECONDS = 60
MOST_MEMORY = 3 << 30
COMMANDS = ("train", "prepare", "plan", "evaluate", "compare", "export", "make-pairs", "iterate", "mismatch")


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Iterator[Commands]:
    with Commands(tmp_path_factory.mktemp("overrides")) as server:
        yield server


@pytest.fixture(scope="module")
def usual(commands, module_config, make_pairs) -> dict[str, list[str]]:
    """A command line of each command that goes through, below one folder, and a run for those that need one."""
    place = commands.folder / "place"
    place.mkdir()
    parquet.write_table(pa.Table.from_pylist(make_pairs(8)), place / "pairs.parquet")
    (place / "prompts.txt").write_text("a fox\nrain\n")
    model = module_config["model"]["pretrained"]
    changes = {"trainer.max_steps": 2, "data.path": place / "pairs.parquet", "output_root": place / "outputs"}
    changes |= {"data.cache_folder": place / "cache", "trainer.checkpoint_every": 1}
    train = arguments(module_config, place / "run", **changes)
    drawn = ["steps=2", "height=16", "width=16", "batch_size=2", "precision=float32", "target_style=twemoji"]
    placed = [f"output_root={place}/outputs", f"prompts={place}/prompts.txt"]
    trained = [item for item in train[1:] if not item.startswith(("output_root=", "output_dir="))]
    lines = {
        "train": train,
        "evaluate": ["evaluate", f"models=[{place}/run]", "scorers=[jpeg_size]", *drawn, *placed],
        "compare": ["compare", f"runs=[{place}/run]"],
        "export": ["export", f"run={place}/run", f"to={place}/exported", "formats=[unet]"],
        "prepare": ["prepare", *trained, f"output_root={place}/outputs"],
        "plan": ["plan", *trained, f"output_root={place}/outputs"],
        "make-pairs": [
            "make-pairs", "recipe=ranked", f"models={model}", "ranked_by=[style]", "images_per_prompt=2",
            f"output_dir={place}/pairs", *drawn, *placed,
        ],
        "mismatch": [
            "mismatch", f"run={place}/run", "pairs=4", "features=efficientnet_lite0", f"output_root={place}/outputs",
        ],
        "iterate": [
            "iterate", *(item for item in trained if not item.startswith("data.path=")), "rounds=1", *placed,
            "ranked_by=[jpeg_size]", "label_scale=1", "images_per_prompt=2", "data.allow_overlap=true",
            f"evaluation.prompts={place}/prompts.txt", "evaluation.steps=2", "evaluation.after_training=false",
            "data.batch_size=1", "trainer.gradient_accumulation=1",
        ],
    }  # fmt: skip
    for command in COMMANDS:
        ended = commands.run(lines[command])
        assert ended.code == 0, f"{command}: {ended.output}"
    shutil.copytree(place, commands.folder / "whole")
    return lines


def written(value: object) -> str:
    """As Hydra's grammar takes it, if it takes it at all."""
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


@pytest.mark.parametrize("command", COMMANDS)
def test_values_that_nobody_means(commands, usual, command, reliability) -> None:
    place, failures, refused = commands.folder / "place", [], 0
    keys = sorted(key for key in known_keys(command) if not key.startswith(("output", "store", "to")))
    for seed in range(CASES):
        chance = Random(f"override {command} {seed}")
        shutil.rmtree(place)
        shutil.copytree(commands.folder / "whole", place)
        given = [f"{chance.choice(keys)}={written(chance.choice(VALUES))}" for _ in range(chance.choice((1, 1, 1, 2)))]
        ended = commands.run([*usual[command], *given], after=MOST_SECONDS)
        refused += ended.code == 2
        said = [line for line in ended.output.splitlines() if line.startswith("mapolab: ")]
        fine = "Traceback" not in ended.output and ended.code in (0, 1, 2) and ended.memory < MOST_MEMORY
        fine = fine and len(said) == int(ended.code != 0) and "\x1b" not in ended.output
        if not fine or list(place.rglob("*outside*")):
            failures.append(f"seed {seed}: {command} {given}: {ended.code}\n{ended.output[-3000:]}")
    assert not failures, f"{len(failures)} of {CASES}:\n" + "\n\n".join(failures)
    reliability(
        f"{CASES} values that nobody means for keys of mapolab {command}",
        "the command goes through, or says one paragraph",
        f"{CASES - refused} times it went through, {refused} times one paragraph",
    )
