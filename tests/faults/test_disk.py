"""A full disk, and files that are not as they were written."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from processes import PATIENCE, start, steps_done, weights

from mapolab.training.folders import fault
from mapolab.training.run import train

pytestmark = pytest.mark.faults


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB in memory; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"NO SMALL DISK COULD BE MOUNTED, so a full one was not tried: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more fits."""
    file = disk / "filler"
    with open(file, "wb", buffering=0) as target:
        try:
            while True:
                target.write(b"0" * 4096)
        except OSError:
            return file


def test_a_full_disk_is_said_clearly_and_costs_nothing(faults_config, small_disk, tmp_path, reliability):
    faults_config["trainer"]["max_steps"] = 150
    alone = train(faults_config | {"output_dir": str(tmp_path / "alone")})
    run = small_disk / "run"
    process = start(faults_config, run, **{"data.cache_folder": tmp_path / "cache"})
    deadline = time.monotonic() + PATIENCE
    while not list(run.glob("checkpoints/step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    filler = fill(small_disk)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert "No space left on device" in errors and "Make room" in errors
    assert "Traceback" not in errors
    checkpoints = list(run.glob("checkpoints/step-*"))
    assert checkpoints and all(fault(checkpoint) is None for checkpoint in checkpoints)
    left_at = steps_done(run)
    filler.unlink()
    process = start(faults_config, run, **{"data.cache_folder": tmp_path / "cache"})
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert weights(run) == weights(alone)
    reliability(
        "Disk full (tmpfs of 24 MB) in the middle of a run",
        "one clear paragraph, exit code 1, checkpoints sound; goes on when there is room",
        f"stopped after step {left_at} with 'No space left on device', then finished with the same weights",
    )


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, Path.unlink], ids=["flipped byte", "truncated", "missing"])
@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "training_state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    module_runs, tmp_path, capfd, reliability, damage, file
):
    config, alone = module_runs
    run = tmp_path / "run"
    shutil.copytree(alone, run)
    shutil.rmtree(run / "unet")
    manifest = (run / "manifest.json").read_text().replace('"finished"', '"running"', 1)
    (run / "manifest.json").write_text(manifest)
    newest = max((run / "checkpoints").glob("step-*"))
    damage(newest / file)
    train(config | {"output_dir": str(run)})
    said = capfd.readouterr().err
    assert f"{newest} is broken" in said and "set aside" in said
    assert (newest.parent / f"broken-{newest.name}").is_dir()
    assert weights(run) == weights(alone)
    reliability(
        f"Newest checkpoint damaged: {file}, {damage.__name__.replace('_', ' ').replace('unlink', 'missing')}",
        "named, set aside, the one before is used; same weights",
        f"'{said.strip().split(': ', 1)[1][:90]}', resumed from the one before, weights equal to the bit",
    )
