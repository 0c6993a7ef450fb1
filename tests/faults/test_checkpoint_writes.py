"""kill -9 at every file boundary of a checkpoint's save: before each file is opened, flushed, renamed or removed."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mapolab.training.checkpoint import FolderCheckpointIO
from mapolab.training.folders import fault
from mapolab.training.resume import CheckpointFolder
from mapolab.training.run import train

pytestmark = pytest.mark.faults
BOUNDARIES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


@pytest.fixture(scope="module")
def saved(module_config) -> Path:
    """The folder of checkpoints of a finished run: after steps 4 and 6."""
    return train(module_config) / "checkpoints"


def dies_at(boundary: int, folder: Path, work: Callable[[], None]) -> bool:
    """Do `work` in a forked process that kills itself at a file boundary below `folder`, counted from 1.

    Returns whether it came so far.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work failed by itself"
        assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL
        return os.WIFSIGNALED(status)
    signal.alarm(60)
    count, flush = 0, os.fsync

    def step() -> None:
        nonlocal count
        count += 1
        if count == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in BOUNDARIES and str(folder) in str(arguments[0]):
            step()

    def fsync(descriptor: int) -> None:
        step()
        flush(descriptor)

    sys.addaudithook(watch)
    os.fsync = fsync
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


@pytest.mark.parametrize("device", ["the run's disk", "another device than $TMPDIR"])
@pytest.mark.parametrize("in_background", [False, True])
def test_whenever_it_dies_a_sound_checkpoint_is_there(saved, device, in_background, reliability):
    place = "/dev/shm" if device.startswith("another") else None
    if place and not Path(place).is_dir():
        pytest.skip("there is no /dev/shm")
    root = Path(tempfile.mkdtemp(dir=place)) / "checkpoints"
    before = saved / "step-00000004"
    content = FolderCheckpointIO().load_checkpoint(saved / "step-00000006")
    checkpoints = CheckpointFolder(root)

    def save() -> None:
        writer = FolderCheckpointIO(in_background)
        writer.save_checkpoint(content, root / "step-00000006")
        writer.finish()
        checkpoints.trim(1)

    boundary, newest, dies = 0, [], True
    try:
        while dies:
            boundary += 1
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(before, root / before.name)
            dies = dies_at(boundary, root, save)
            found = checkpoints.newest_sound()
            assert found is not None and fault(found) is None
            assert not list(root.glob("broken-*")), "a torn checkpoint was seen"
            newest.append(found.name)
            checkpoints.sweep()
            assert not list(root.glob(".*")), "rubbish stayed"
        loaded = FolderCheckpointIO().load_checkpoint(root / "step-00000006")
        assert all(torch.equal(tensor, loaded["state_dict"][name]) for name, tensor in content["state_dict"].items())
    finally:
        shutil.rmtree(root.parent)
    assert boundary > 15
    assert newest == sorted(newest), "from some boundary on it is the new one, and never the old one again"
    how = "in the background" if in_background else "in the step"
    reliability(
        f"kill -9 at each file boundary of a checkpoint written {how}, on {device}",
        "the previous checkpoint is sound until the new one is; never a torn one",
        f"{boundary - 1} boundaries, each left a sound newest checkpoint; {newest.count('step-00000006')} the new one",
    )
