"""Processes that share the work end with the weights of one."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file

from mapolab.config.compose import compose
from mapolab.models.sdxl import SDXL
from mapolab.training.metrics import MetricsFile
from mapolab.training.run import train as run

PRECISIONS = {"float64": ["trainer.precision=64-true", "model.reference_dtype=float64"], "float32": []}


@pytest.fixture(scope="module")
def pairs(make_pairs, tmp_path_factory) -> Path:
    """20 pairs and a tie: a step of 12 pairs never ends where an epoch does."""
    file = tmp_path_factory.mktemp("pairs") / "twenty.parquet"
    parquet.write_table(pa.Table.from_pylist(make_pairs(20)), file)
    return file


@pytest.fixture(scope="module")
def runs(tiny_pipeline_folder, pairs, tmp_path_factory):
    """A function that gives the folder of the run in a precision with so many processes."""
    root = tmp_path_factory.mktemp("runs")
    done: dict[tuple[str, int], Path] = {}

    def get(precision: str, processes: int) -> Path:
        key = precision, processes
        if key not in done:
            done[key] = root / f"{precision}-{processes}"
            train(tiny_pipeline_folder, pairs, done[key], processes, PRECISIONS[precision])
        return done[key]

    return get


def train(model: Path, pairs: Path, folder: Path, processes: int, overrides: list[str]) -> None:
    """Several with the real command: Lightning starts the other ranks by repeating it.

    Diffusion-KTO, whose loss takes a mean over all ranks; a forward pass of 6 pairs in all, two of them a step.
    """
    settings = {
        "model.pretrained": model,
        "data.path": pairs,
        "data.resolution": 16,
        "data.cache": "true",
        "data.num_workers": 0,
        "data.batch_size": 6 // processes,
        "optimizer.lr": 1e-3,
        "trainer.max_steps": 20,
        "trainer.gradient_accumulation": 2,
        "trainer.progress": "off",
        "strategy": "ddp" if processes > 1 else "single",
        "strategy.accelerator": "cpu",
        "strategy.devices": processes,
        "output_root": folder.parent,
        "output_dir": folder,
    }
    groups = ["data=parquet_pairs", "evaluation=pictures", "objective=diffusion_kto", *overrides]
    given = [*groups, *(f"{key}={value}" for key, value in settings.items())]
    if processes == 1:
        run(compose("train", given))
        return
    command = [sys.executable, "-m", "mapolab", "train", *given]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stdout + process.stderr


def weights(run: Path) -> torch.Tensor:
    """All of them in one vector."""
    saved = load_file(run / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([saved[name].double().flatten() for name in sorted(saved)])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_in_float64_ranks_equal_one_process(runs, processes):
    one, several = weights(runs("float64", 1)), weights(runs("float64", processes))
    assert (one - several).norm() <= 1e-10 * one.norm()


@pytest.mark.slow
def test_in_float32_they_stay_within_a_percent_of_the_way(runs, tiny_pipeline_folder):
    start = SDXL(str(tiny_pipeline_folder)).load_unet().state_dict()
    start = torch.cat([start[name].double().flatten() for name in sorted(start)])
    one, three = weights(runs("float32", 1)), weights(runs("float32", 3))
    assert (one - three).norm() <= 0.01 * (one - start).norm()


@pytest.mark.slow
def test_their_curves_are_those_of_the_whole_batch(runs):
    curves = [MetricsFile(runs("float64", processes) / "metrics.csv").rows() for processes in (1, 3)]
    for alone, shared in zip(*curves, strict=True):
        assert alone["consumed_samples"] == shared["consumed_samples"]
        for name in ("loss", "error_chosen", "implicit_accuracy", "gradient_norm"):
            assert float(alone[name]) == pytest.approx(float(shared[name]), rel=1e-5)
