"""Real processes of the real command, killed and asked to stop; the weights must not show it."""

import os
import signal
import time
from pathlib import Path

import pytest
from processes import PATIENCE, curves, manifest, positions, start, steps_done, stop_after, weights

from mapolab.training.run import train

# Makes a save take a second, so that a signal can come in the middle of it.
SLOW_SAVE = """
import sys, time
from mapolab.training.checkpoint import FolderCheckpointIO
write = FolderCheckpointIO._write
def slow(self, path, *rest):
    write(self, path, *rest)
    open(f"{path.parent.parent}/saving", "w").close()
    time.sleep(1)
FolderCheckpointIO._write = slow
from mapolab.cli import main
sys.exit(main(sys.argv[1:]))
"""
NAN_ON_RANK_1 = """
import os, sys, torch
from mapolab.data.datamodule import PairDataModule
move = PairDataModule.transfer_batch_to_device
def poisoned(self, batch, device, index):
    batch = move(self, batch, device, index)
    if os.environ.get("LOCAL_RANK") == "1" and self.trainer.global_step == 10:
        batch["chosen_latents"][0, 0, 0, 0] = float("nan")
    return batch
PairDataModule.transfer_batch_to_device = poisoned
from mapolab.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def undisturbed(faults_config) -> Path:
    process = start(faults_config, Path(faults_config["output_dir"]))
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    return Path(faults_config["output_dir"])


# In the default suite too: the promise that everything rests on.
def test_killed_twice_a_run_ends_with_the_same_weights(faults_config, undisturbed, tmp_path, reliability):
    """Once in mid-epoch and mid-way between checkpoints, once epochs later, on other numbers of workers each time."""
    run = tmp_path / "killed"
    for steps, workers in ((6, 0), (22, 2)):
        code, errors = stop_after(
            start(faults_config, run, **{"data.num_workers": workers}), run, steps, signal.SIGKILL
        )
        assert code == -signal.SIGKILL, errors
        assert manifest(run)["status"] == "running"
        assert steps <= steps_done(run) < 40
        assert not (run / "unet").exists()
    process = start(faults_config, run, **{"data.num_workers": 1})
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert weights(run) == weights(undisturbed)
    assert curves(run) == curves(undisturbed)
    assert manifest(run)["status"] == "finished"
    assert manifest(run)["restarts"] == 2
    reliability(
        "kill -9 twice, in mid-epoch and epochs later, with 0, 2 and 1 loader processes",
        "the same command continues; same weights and metrics",
        "weights and metrics equal to the bit, two restarts counted",
    )


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_asked_to_stop_a_run_saves_itself_between_two_steps(faults_config, tmp_path, reliability, number):
    run = tmp_path / "stopped"
    found, errors = stop_after(start(faults_config, run, **{"data.num_workers": 1}), run, 5, number)
    assert found == 128 + number, errors
    assert "Traceback" not in errors
    assert "The same command continues the run" in errors
    assert manifest(run)["status"] == "interrupted"
    steps = steps_done(run)
    # Nothing of a finished step is lost, although no checkpoint was due.
    assert (run / "checkpoints" / f"step-{steps:08d}").is_dir()
    train(faults_config)
    train(faults_config | {"output_dir": str(run)})
    assert weights(run) == weights(Path(faults_config["output_dir"]))
    assert curves(run) == curves(Path(faults_config["output_dir"]))
    reliability(
        f"{number.name} in mid-step",
        "the step ends, is saved, and the run leaves; same weights",
        f"saved after step {steps}, exit code {found}, weights and metrics equal to the bit",
    )


@pytest.mark.faults
def test_a_signal_while_loading_ends_the_run_at_once(faults_config, tmp_path, reliability):
    """Held back until the command listens, so that it never just dies."""
    process = start(faults_config, tmp_path / "run")
    time.sleep(1.0)  # in the middle of its imports
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGUSR1, errors
    assert "Stopped by SIGUSR1" in errors and "Traceback" not in errors
    reliability("SIGUSR1 while the libraries load", "an orderly end", "exit code 138 and one sentence")


@pytest.mark.faults
def test_more_signals_during_the_save_do_no_harm(faults_config, tmp_path, reliability):
    run = tmp_path / "run"
    faults_config["trainer"]["checkpoint_every"] = 1000
    process = start(faults_config, run, SLOW_SAVE)
    deadline = time.monotonic() + PATIENCE
    while steps_done(run) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    while not (run / "saving").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.05)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (128 + signal.SIGINT, 143), errors
    assert "Traceback" not in errors
    assert (run / "checkpoints" / f"step-{steps_done(run):08d}").is_dir()
    train(faults_config)
    train(faults_config | {"output_dir": str(run)})
    assert weights(run) == weights(Path(faults_config["output_dir"]))
    reliability("Four more signals during the save", "no harm", "checkpoint whole, orderly end, same weights")


@pytest.mark.faults
def test_killed_during_validation(faults_config, tmp_path, reliability):
    """Half of the time goes into validation here, so a kill at its row's beginning falls into it."""
    changes = {
        "trainer.validate_every": 1, "trainer.validation_pairs": 10, "trainer.keep_best": "loss",
        "data.validation_path": faults_config["data"]["path"], "data.batch_size": 2,
    }  # fmt: skip
    alone = tmp_path / "alone"
    _, errors = (process := start(faults_config, alone, **changes)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    run = tmp_path / "killed"
    for steps in (9, 23):
        code, errors = stop_after(start(faults_config, run, **changes), run, steps, signal.SIGKILL)
        assert code == -signal.SIGKILL, errors
    _, errors = (process := start(faults_config, run, **changes)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    for file in ("validation.csv", "best.json", "unet/diffusion_pytorch_model.safetensors"):
        assert (run / file).read_bytes() == (alone / file).read_bytes()
    assert {path.name for path in run.glob("checkpoints/*")} == {path.name for path in alone.glob("checkpoints/*")}
    reliability(
        "kill -9 during validation, twice",
        "validation.csv, the best checkpoint and the weights as if nothing had happened",
        "all three equal to the bit, and the same checkpoints kept",
    )


@pytest.mark.faults
def test_nan_on_one_rank_stops_all_with_weights_untouched(faults_config, tmp_path, reliability):
    run = tmp_path / "run"
    faults_config["trainer"]["ema_decay"] = None
    two = {"strategy": "ddp", "strategy.devices": 2, "trainer.checkpoint_every": 1, "data.batch_size": 1}
    two |= {"strategy.options": "{}", "strategy.num_nodes": 1, "strategy.strategy": "ddp"}
    process = start(faults_config, run, NAN_ON_RANK_1, **two)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert "is not finite" in errors and "The weights were not updated" in errors
    assert steps_done(run) == 10
    assert max(path.name for path in run.glob("checkpoints/step-*")) == "step-00000010"
    assert not (run / "unet").exists()
    assert manifest(run)["status"] == "failed"
    time.sleep(0.5)
    assert not any(str(run) in command for command in _commands()), "a rank stayed behind"
    reliability(
        "One of two ranks gets a NaN",
        "all stop before the update, with the reason; no process stays",
        "exit code 1 naming the step, newest checkpoint from before it, no process left",
    )


def _commands() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_text())
        except OSError:
            continue
    return found


@pytest.mark.faults
def test_a_second_process_on_one_folder_is_refused(faults_config, tmp_path, reliability):
    run = tmp_path / "run"
    faults_config["trainer"]["max_steps"] = 2000
    first = start(faults_config, run)
    deadline = time.monotonic() + PATIENCE
    while steps_done(run) < 3 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    second = start(faults_config, run)
    _, errors = second.communicate(timeout=PATIENCE)
    assert second.returncode == 2
    assert f"Another process is working on {run}" in errors
    code, errors = stop_after(first, run, 0, signal.SIGTERM)
    assert code == 143, errors
    assert positions(run) == [6 * step for step in range(1, steps_done(run) + 1)]
    reliability(
        "Two processes on one run folder", "the second refuses", "exit code 2 with the reason; the first unharmed"
    )


@pytest.mark.faults
def test_killed_while_a_checkpoint_is_written_in_the_background(faults_config, tmp_path, reliability):
    run, changes = tmp_path / "run", {"trainer.checkpoint_in_background": "true", "trainer.checkpoint_every": 2}
    train(faults_config)
    for steps in (7, 21):
        code, errors = stop_after(start(faults_config, run, **changes), run, steps, signal.SIGKILL)
        assert code == -signal.SIGKILL, errors
    _, errors = (process := start(faults_config, run, **changes)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert weights(run) == weights(Path(faults_config["output_dir"]))
    reliability("kill -9 twice, checkpoints written in the background", "same weights", "weights equal to the bit")
    assert os.listdir(run / "checkpoints")
