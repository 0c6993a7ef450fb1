"""One command, one folder: what changes the weights changes the name, and nothing else does."""

import copy
from typing import Any

import pytest

from mapolab.config.compose import compose
from mapolab.config.identity import identity, run_folder, run_name

SAME = (
    "trainer.progress=off",
    "trainer.checkpoint_every=7",
    "trainer.keep_checkpoints=9",
    "trainer.log_every=5",
    "data.num_workers=3",
    "output_root=elsewhere",
    "logger=tensorboard",
    "evaluation.steps=3",
    "objective.beta=8.0",
)
TOLD = ("own", "shared", "fixed")
OTHER = (
    "seed=1",
    "objective=sft",
    "objective.beta=9",
    "optimizer.lr=2e-5",
    "trainer.max_steps=61",
    "data.batch_size=8",
)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return compose("train")


@pytest.mark.parametrize("override", SAME)
def test_the_same_run(config: dict[str, Any], override: str) -> None:
    assert run_name(compose("train", [override])) == run_name(config)


@pytest.mark.parametrize("override", OTHER)
def test_another_run(config: dict[str, Any], override: str) -> None:
    assert run_name(compose("train", [override])) != run_name(config)


def test_the_identity_leaves_the_config_as_it_was(config: dict[str, Any]) -> None:
    before = str(config)
    identity(config)
    assert str(config) == before


def test_what_was_not_a_choice_once_names_the_run_as_then() -> None:
    own = compose("train", ["data.micro_conditioning=own"])
    before = copy.deepcopy(own)
    del before["data"]["micro_conditioning"]
    assert run_name(before) == run_name(own)
    assert len({run_name(compose("train", [f"data.micro_conditioning={told}"])) for told in TOLD}) == 3
    # Where no image is given, there was nothing to choose.
    for experiment in ("emoji_ddpo", "tiny_base"):
        config = compose("train", [f"experiment={experiment}"])
        before = copy.deepcopy(config)
        del before["data"]["micro_conditioning"]
        assert run_name(before) == run_name(config)


def test_values_never_reach_the_folder_name() -> None:
    config = compose("train", [f"data.path=/data/{'x' * 400}.parquet", "model.revision=refs/pr/1"])
    assert run_folder(config).parent.as_posix() == "outputs/emoji_style"
    assert run_folder(config).name.startswith("mapo-seed0-")
    assert len(run_folder(config).name) == len("mapo-seed0-") + 8


def test_the_output_folder_can_be_named_outright(config: dict[str, Any]) -> None:
    assert run_folder(config | {"output_dir": "here/it/is"}).as_posix() == "here/it/is"


def test_the_tiny_base_is_named_after_its_task() -> None:
    assert run_name(compose("train", ["experiment=tiny_base"])).startswith("tiny_base-seed0-")
