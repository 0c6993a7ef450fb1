"""A full disk, and files that are not as they were written."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import PATIENCE, start, steps_done, weights

from mapolab.training.folders import fault
from mapolab.training.run import train

pytestmark = pytest.mark.faults
ALONE = os.environ | {"OMP_NUM_THREADS": "1"}


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


@pytest.fixture(scope="module")
def made(module_config, tmp_path_factory) -> dict[str, Path]:
    """What the commands work on: a finished run, and the same one evaluated."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "prompts.txt").write_text("a horse\ntwo cats\n")
    run = train(module_config | {"output_dir": str(folder / "run")})
    drawn = ["steps=1", "guidance_scale=2", "height=16", "width=16", "scorers=[jpeg_size]", "target_style=twemoji"]
    command(["evaluate", f"models={run}", f"prompts={folder / 'prompts.txt'}", f"output_root={folder}", *drawn])
    return {"run": run, "prompts": folder / "prompts.txt"}


def command(arguments: list[str], code: int = 0) -> str:
    """What it said on stderr."""
    process = subprocess.run([sys.executable, "-m", "mapolab", *arguments], capture_output=True, text=True, env=ALONE)
    assert process.returncode == code, process.stdout + process.stderr
    return process.stderr


def lines(disk: Path, config: dict, made: dict[str, Path]) -> dict[str, list[str]]:
    """Each command with everything that it writes on this disk."""
    model, pairs = config["model"]["pretrained"], config["data"]["path"]
    drawn = ["steps=1", "guidance_scale=2", "height=16", "width=16", "target_style=twemoji"]
    ranked = [f"prompts={made['prompts']}", "images_per_prompt=2", "ranked_by=[style]"]
    trained = ["data=parquet_pairs", f"data.path={pairs}", "data.resolution=16", "evaluation=pictures",
               f"model.pretrained={model}", "data.cache=true"]  # fmt: skip
    root = f"output_root={disk / 'outputs'}"
    short = ["data.batch_size=2", "trainer.max_steps=2", "trainer.progress=off"]
    rounds = ["data.resolution=16", f"model.pretrained={model}", "evaluation.steps=1", "data.preferred_style=twemoji",
              "evaluation.prompts=null", *short]  # fmt: skip
    shown = ["evaluate", f"models={model}", f"prompts={made['prompts']}", "scorers=[jpeg_size]", *drawn, root]
    return {
        "prepare": ["prepare", *trained, root],
        "evaluate": shown,
        "make-pairs": ["make-pairs", "recipe=ranked", f"models={model}", *ranked, *drawn, root,
                       f"output_dir={disk / 'pairs'}"],
        "compare": ["compare", f"runs={made['run']}", f"output_dir={disk / 'comparison'}"],
        "export": ["export", f"run={made['run']}", f"to={disk / 'export'}"],
        "iterate": ["iterate", *rounds, *ranked, root, f"output_dir={disk / 'rounds'}", "rounds=1"],
        "train -m": [*["train", *trained, root], "-m", "seed=0,1", *short,
                     f"hydra.sweep.dir={disk / 'sweep'}", "hydra/launcher=processes", "hydra.launcher.parallel=2"],
    }  # fmt: skip


def content(disk: Path) -> list[str]:
    return [str(file.relative_to(disk)) for file in disk.rglob("*") if file.is_file() and file.name != "filler"]


@pytest.mark.parametrize("name", ["prepare", "evaluate", "make-pairs", "compare", "export", "iterate", "train -m"])
def test_every_command_says_clearly_that_the_disk_is_full(module_config, made, small_disk, reliability, name):
    """With room for nothing, then for a little, then for all of it."""
    arguments = lines(small_disk, module_config, made)[name]
    filler = fill(small_disk)
    told = []
    for room in (0, 16 * 1024, 96 * 1024):
        os.truncate(filler, filler.stat().st_size - room)
        process = subprocess.run(
            [sys.executable, "-m", "mapolab", *arguments], capture_output=True, text=True, env=ALONE
        )
        assert "Traceback" not in process.stdout + process.stderr, process.stderr
        if process.returncode:
            full = process.returncode == 1 and "No space left on device" in process.stderr
            # A cache knows beforehand how large it will be.
            assert full or (process.returncode in (1, 2) and "B free. Choose" in process.stderr), process.stderr
            assert str(small_disk) in process.stderr
            told.append(full)
    assert told[0], "with no room at all"
    filler.unlink()
    command(arguments)
    left = [file for file in content(small_disk) if file.endswith(".tmp")]
    assert not left and not [entry.name for entry in small_disk.iterdir() if entry.name.endswith(".tmp")]
    reliability(
        f"Disk full while mapolab {name} works",
        "one clear paragraph, exit code 1, nothing torn; the same command does the rest when there is room",
        f"{sum(told)} times 'No space left on device' with the place; then finished, and nothing unfinished left",
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
