"""The checkpoints of a run: which one to continue from, which ones to keep."""

from pathlib import Path

from mapolab.errors import UserError
from mapolab.files import read_json
from mapolab.runs import number_of, numbered_folders
from mapolab.texts import say
from mapolab.training.folders import discard, fault, sweep


def step_of(checkpoint: Path) -> int:
    """Optimizer steps before a checkpoint."""
    return number_of(checkpoint)


def check_identity(folder: Path, identity: str | None) -> None:
    """Raise UserError for what another run wrote: a checkpoint, or a round's pictures, that was copied here. What
    earlier versions wrote has no identity. identity: of the run that reads it, None where that is not known."""
    try:
        found = read_json(folder / "manifest.json").get("run")
    except (OSError, ValueError, AttributeError):
        return  # it is broken, which is for `fault` to say
    if None not in (found, identity) and found != identity:
        raise UserError(
            f"{folder} was written by another run than the one it lies in: by another config or seed, or from another "
            "model. Move it away; then the same command continues from what this run wrote itself."
        )


class CheckpointFolder:
    """`<run>/checkpoints`, with one folder for each saved step."""

    def __init__(self, path: Path):
        self.path = path

    def at(self, step: int) -> Path:
        """Where the checkpoint after `step` optimizer steps lies."""
        return self.path / f"step-{step:08d}"

    def all(self) -> list[Path]:
        """All checkpoints, oldest first; what else lies there, such as a copy under another name, is none."""
        return numbered_folders(self.path, "step")

    def check_identity(self, identity: str | None) -> None:
        """Raise UserError, naming it, for a checkpoint of another run."""
        for checkpoint in self.all():
            check_identity(checkpoint, identity)

    def newest_sound(self, set_aside: bool = True) -> Path | None:
        """The newest checkpoint whose files are as they were written, or None.

        A broken one is named on stderr and set aside under `broken-step-...`: never used, never silently lost.
        set_aside: for rank 0; the others come to the same answer, whether they look before or after.
        """
        for checkpoint in reversed(self.all()):
            wrong = fault(checkpoint) or _misnamed(checkpoint)
            if wrong is None:
                return checkpoint
            if not set_aside:
                continue
            names = (f"broken-{checkpoint.name}{again}" for again in ("", *(f"-{count}" for count in range(2, 10**6))))
            aside = next(path for name in names if not (path := checkpoint.with_name(name)).exists())
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


def _misnamed(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint that is whole, but of another step than its name says."""
    step = read_json(checkpoint / "manifest.json").get("step", step_of(checkpoint))
    return None if step == step_of(checkpoint) else f"its manifest is of step {step}"
