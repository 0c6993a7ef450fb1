"""A run that draws its own pictures, killed while it draws and while it trains on what it drew."""

import copy
import signal
from pathlib import Path

import pytest
from processes import PATIENCE, curves, manifest, start, steps_done, stop_after, weights

from mapolab.training.run import train

ROLLOUT = {
    "steps": 4, "eta": 1.0, "guidance_scale": 3.0, "samples": 12, "images_per_prompt": 1, "inner_epochs": 2,
    "timestep_fraction": 0.5, "rewards": ["jpeg_size"], "target_style": None, "per_prompt_buffer": 4,
    "per_prompt_minimum": 3, "prompts": None,
}  # fmt: skip


@pytest.mark.faults
def test_killed_in_and_between_rounds_a_run_ends_with_the_same_weights(faults_config, tmp_path, reliability):
    """4 optimizer steps a round, a checkpoint every 3: kills fall into drawing and training, resumes into both too."""
    config = copy.deepcopy(faults_config)
    config["objective"] = {"name": "ddpo", "clip_range": 0.1, "advantage_clip": 5.0, "kl_weight": 1.0}
    config["data"] |= {"flip_probability": 0.0}
    config["trainer"] |= {"max_steps": 20, "checkpoint_every": 3}
    changes = {f"rollout.{key}": "null" if value is None else value for key, value in ROLLOUT.items()}
    changes["rollout.rewards"] = "[jpeg_size]"
    run = tmp_path / "killed"
    for steps in (2, 4, 7, 12, 17):
        code, errors = stop_after(start(config, run, **changes), run, steps, signal.SIGKILL)
        assert code == -signal.SIGKILL, errors
        assert steps <= steps_done(run) < 20
    process = start(config, run, **changes)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    train(config | {"rollout": ROLLOUT})
    assert weights(run) == weights(Path(config["output_dir"]))
    assert curves(run) == curves(Path(config["output_dir"]))
    assert manifest(run)["restarts"] == 5 and not (run / "rollouts").exists()
    reliability(
        "kill -9 five times while a run draws and learns from its own pictures",
        "the round goes on with the pictures it had, or is drawn again alike; same weights and metrics",
        "weights and metrics equal to the bit, five restarts counted",
    )
