"""Processes that share the drawing draw what one draws, and a round begun by two goes on with one."""

import subprocess
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
import torch
from processes import PATIENCE, start, stop_after
from safetensors.torch import load_file

from mapolab.files import read_json
from mapolab.training.metrics import MetricsFile

# A finished run keeps no rounds; this one does, for us to look at.
KEEP_ROUNDS = """
import sys, types
from mapolab.cli import main
from mapolab.training import run
run.shutil = types.SimpleNamespace(rmtree=lambda *arguments, **options: None)
sys.exit(main(sys.argv[1:]))
"""
ROLLOUT = {
    "steps": 3, "eta": 1.0, "guidance_scale": 3.0, "samples": 8, "images_per_prompt": 1, "inner_epochs": 2,
    "timestep_fraction": 1.0, "rewards": ["jpeg_size"], "target_style": None, "per_prompt_buffer": 4,
    "per_prompt_minimum": 3, "prompts": None,
}  # fmt: skip


@pytest.fixture
def config(train_config: dict[str, Any]) -> dict[str, Any]:
    """In float64, where the order of a sum does not show: 4 optimizer steps a round, 10 in all."""
    train_config["objective"] = {"name": "ddpo", "clip_range": 0.1, "advantage_clip": 5.0, "kl_weight": 0.0}
    train_config["trainer"] |= {"precision": "64-true", "max_steps": 10, "checkpoint_every": 100}
    train_config["schedule"] = {"name": "constant_with_warmup", "warmup_steps": 0}
    train_config["rollout"] = ROLLOUT
    return train_config


def start_with(config: dict[str, Any], run: Path, processes: int, program: str | None = None) -> subprocess.Popen[str]:
    """Forward passes of 2 pictures, 4 pictures an optimizer step, on so many processes."""
    changes = {f"rollout.{key}": value for key, value in ROLLOUT.items() if key not in ("rewards", "target_style")}
    changes |= {"rollout.target_style": None, "trainer.gradient_accumulation": 2 // processes}
    if processes == 2:
        changes |= {"strategy": "ddp", "strategy.devices": 2, "strategy.options": "{}", "strategy.num_nodes": 1}
        changes |= {"strategy.strategy": "ddp"}
    return start(config, run, program, **{key: "null" if value is None else value for key, value in changes.items()})


def finished(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors


def drawn(run: Path, number: int) -> tuple[dict[int, torch.Tensor], dict[str, Any]]:
    """A round's paths by position, and its manifest without the files."""
    folder = run / "rollouts" / f"round-{number:08d}"
    about = read_json(folder / "manifest.json")
    paths = {}
    for name in about.pop("files"):
        tensors = load_file(folder / name)
        paths |= dict(zip(tensors["positions"].tolist(), tensors["latents"], strict=True))
    return paths, about


def weights(run: Path) -> torch.Tensor:
    saved = load_file(run / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([saved[name].flatten() for name in sorted(saved)])


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(config, tmp_path):
    runs = {processes: tmp_path / str(processes) for processes in (1, 2)}
    for processes, run in runs.items():
        finished(start_with(config, run, processes, KEEP_ROUNDS))
    (alone, about), (shared, about_shared) = (drawn(run, 2) for run in runs.values())
    assert sorted(alone) == sorted(shared) == list(range(16, 24))
    assert about["rewards"] == about_shared["rewards"] and about["prompts"] == about_shared["prompts"]
    assert about["advantages"] == pytest.approx(about_shared["advantages"], abs=1e-12)
    for position, path in alone.items():
        torch.testing.assert_close(shared[position], path, rtol=1e-8, atol=1e-8)
    assert (weights(runs[1]) - weights(runs[2])).norm() <= 1e-9 * weights(runs[1]).norm()
    curves = [MetricsFile(run / "metrics.csv").rows() for run in runs.values()]
    for row, other in zip(*curves, strict=True):
        for name in ("loss", "reward", "reward_std", "approx_kl", "ratio", "consumed_samples"):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-5, abs=1e-9)


@pytest.mark.slow
def test_a_round_begun_by_two_goes_on_with_one(config, tmp_path):
    finished(start_with(config, tmp_path / "undisturbed", 1))
    run = tmp_path / "moved"
    code, errors = stop_after(start_with(config, run, 2), run, 5, SIGTERM)
    assert code == 128 + SIGTERM, errors
    finished(start_with(config, run, 1))
    assert (weights(run) - weights(tmp_path / "undisturbed")).norm() <= 1e-9 * weights(run).norm()
