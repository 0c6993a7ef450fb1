"""`mapolab prepare`, killed in the middle and shared by processes; streaming runs, killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.faults
PATIENCE = 300  # seconds; only a hang takes as long

# Small shards, so that a small data set has many: the command itself, with three constants changed.
PROGRAM = """
import sys
from mapolab.data.prepared import plan, scan
scan.ROWS_PER_UNIT, plan.MOST_IMAGES_PER_SHARD, plan.PROMPTS_PER_SHARD = 40, 6, 2
from mapolab.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def pairs(make_pairs, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    parquet.write_table(pa.Table.from_pylist(make_pairs(150)), file, row_group_size=20)
    return file


def prepare(model: Path, pairs: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    overrides = [
        "data=parquet_pairs", f"data.path={pairs}", "data.cache=true", f"data.cache_folder={cache}",
        "data.resolution=16", "evaluation=pictures", f"model.pretrained={model}", *more,
    ]  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, "prepare", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    return output


def shards(cache: Path) -> list[Path]:
    return [file for file in cache.glob("*/*/*.json") if file.parent.name in ("images", "prompts")]


def content(cache: Path) -> dict[str, bytes]:
    """Everything but the index and what a killed process left of an unfinished file."""
    files = (file for file in cache.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(cache)): file.read_bytes() for file in files if "index" not in file.parts}


def test_killed_or_shared_prepare_makes_the_same_cache(tiny_pipeline_folder, pairs, tmp_path, reliability):
    finished(prepare(tiny_pipeline_folder, pairs, tmp_path / "whole"))
    expected = content(tmp_path / "whole")
    for count in (3, 20):
        process = prepare(tiny_pipeline_folder, pairs, tmp_path / "killed")
        deadline = time.monotonic() + PATIENCE
        while len(shards(tmp_path / "killed")) < count and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    assert "Ready: " in finished(prepare(tiny_pipeline_folder, pairs, tmp_path / "killed"))
    assert content(tmp_path / "killed") == expected
    reliability(
        "kill -9 twice while the data cache is prepared",
        "the same command goes on; the cache has the same bytes",
        "killed after 3 and after 20 shards; every file equal to that of an undisturbed one",
    )

    parts = [prepare(tiny_pipeline_folder, pairs, tmp_path / "shared", f"part={part}", "parts=2") for part in (0, 1)]
    outputs = [finished(process) for process in parts]
    assert any("Ready: " in output for output in outputs)
    assert content(tmp_path / "shared") == expected


def train(model: Path, pairs: Path, run: Path, workers: int) -> subprocess.Popen[str]:
    overrides = [
        "data=parquet_pairs", f"data.path={pairs}", f"data.num_workers={workers}", "data.shuffle_window=30",
        "data.resolution=16", "evaluation=pictures", f"model.pretrained={model}", f"output_dir={run}",
        f"data.cache_folder={run.parent / 'index'}", "trainer.max_steps=60", "trainer.checkpoint_every=7",
    ]  # fmt: skip
    command = [sys.executable, "-m", "mapolab", "train", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_streaming_run_killed_twice_ends_with_the_same_weights(tiny_pipeline_folder, pairs, tmp_path, reliability):
    finished(train(tiny_pipeline_folder, pairs, tmp_path / "undisturbed", 0))
    for steps, workers in ((11, 2), (37, 0)):
        process, metrics = (
            train(tiny_pipeline_folder, pairs, tmp_path / "killed", workers),
            tmp_path / "killed" / "metrics.csv",
        )
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.read_text().count("\n") > steps:
                break
            time.sleep(0.002)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    finished(train(tiny_pipeline_folder, pairs, tmp_path / "killed", 1))
    weights, expected = (
        load_file(tmp_path / run / "unet" / "diffusion_pytorch_model.safetensors") for run in ("killed", "undisturbed")
    )
    assert all(weights[name].equal(tensor) for name, tensor in expected.items())
    reliability(
        "kill -9 twice while rows stream from parquet files, with 2, 0 and 1 loader processes",
        "same weights",
        "weights equal to the bit",
    )
