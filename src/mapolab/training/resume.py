"""The checkpoints of a run: which one to continue from, which ones to keep."""

import shutil
from pathlib import Path

from mapolab.texts import say
from mapolab.training.folders import discard, fault, sweep


def step_of(checkpoint: Path) -> int:
    """Optimizer steps before a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


class CheckpointFolder:
    """`<run>/checkpoints`, with one folder for each saved step."""

    def __init__(self, path: Path):
        self.path = path

    def at(self, step: int) -> Path:
        """Where the checkpoint after `step` optimizer steps lies."""
        return self.path / f"step-{step:08d}"

    def all(self) -> list[Path]:
        """All checkpoints, oldest first."""
        return sorted(self.path.glob("step-*"))

    def newest_sound(self, set_aside: bool = True) -> Path | None:
        """The newest checkpoint whose files are as they were written, or None.

        A broken one is named on stderr and set aside under `broken-step-...`: never used, never silently lost.
        set_aside: for rank 0; the others come to the same answer, whether they look before or after.
        """
        for checkpoint in reversed(self.all()):
            wrong = fault(checkpoint)
            if wrong is None:
                return checkpoint
            if not set_aside:
                continue
            aside = checkpoint.with_name(f"broken-{checkpoint.name}")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
            say(f"The checkpoint {checkpoint} is broken: {wrong}. It is set aside as {aside.name}.", to_errors=True)
        return None

    def sweep(self) -> None:
        """Remove what a killed process left half-written. Only for the holder of the run's lock."""
        sweep(self.path)

    def trim(self, keep: int, best: int | None = None) -> None:
        """Remove all but the newest `keep` and the one of step `best`."""
        for checkpoint in self.all()[: -keep or None]:
            if best is None or checkpoint != self.at(best):
                discard(checkpoint)
