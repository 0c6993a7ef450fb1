"""Runs for the faults: with everything that has a state, small enough to be killed often."""

from pathlib import Path
from typing import Any

import pytest

from mapolab.training.run import train


def with_all_states(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """10 pairs an epoch, 6 a step: most epochs end in the middle of a step."""
    config["output_dir"] = str(folder)
    config["objective"] = {"name": "diffusion_dpo", "beta": 200.0}
    config["data"] |= {"flip_probability": 0.5, "vae_posterior": "sample"}
    config["schedule"] = {"name": "cosine", "warmup_steps": 8}
    config["trainer"] |= {"max_steps": 40, "gradient_accumulation": 3, "ema_decay": 0.99, "checkpoint_every": 4}
    return config


@pytest.fixture
def faults_config(train_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return with_all_states(train_config, tmp_path / "undisturbed")


@pytest.fixture(scope="module")
def module_runs(module_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A config and the folder of its undisturbed run, for tests that only look."""
    config = with_all_states(module_config, tmp_path_factory.mktemp("faults") / "undisturbed")
    return config, train(config)
