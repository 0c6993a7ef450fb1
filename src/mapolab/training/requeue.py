"""A preempted run in a Slurm job asks Slurm, once and not forever, to run the job again."""

import os
import time
from typing import Any

from mapolab.errors import Interrupted, RunError
from mapolab.runs import RunFolder, timestamp
from mapolab.training.slurm import SlurmJob, job_name


class Requeue:
    """Asks at most once in the life of this process. Only rank 0 has one. accepted: Slurm will run the job again."""

    def __init__(self, folder: RunFolder, job: SlurmJob | None, most: int):
        self.folder, self.job, self.most = folder, job, most
        self.done = False
        self.accepted = False

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: RunFolder) -> "Requeue":
        settings = config["preemption"]
        job = SlurmJob.current() if settings["requeue"] and job_name() else None
        return cls(folder, job, settings["max_requeues"])

    def deadline(self, seconds_before: float | None) -> float | None:
        """When the run is to leave by itself, in seconds since the epoch; None without a known time limit."""
        if self.job is None or self.job.ends_at is None or seconds_before is None:
            return None
        # A short job still gets most of its time, whatever the setting.
        return self.job.ends_at - min(seconds_before, (self.job.ends_at - time.time()) / 4)

    def ask(self, step: int | str, reason: str) -> None:
        """Requeue the job of a run that has saved itself after `step` optimizer steps; outside of Slurm do nothing.

        step: or how far its evaluation has come.

        Returns where the caller must leave at once. Raises Interrupted where the job stays as it is, with why, and
        RunError where requeuing would go on forever without a step.
        """
        if self.job is None or self.done:
            return
        self.done = True
        before = self.folder.requeues()
        if before and before[-1]["step"] == step:
            raise RunError(
                f"The run made no step between two requeues: both times it stood at step {step}. Each start takes "
                "longer than the job is given before it is stopped. Raise the job's time limit, or lower "
                "preemption.save_before_limit; then the same command continues the run."
            )
        if len(before) >= self.most:
            raise Interrupted(
                f"Stopped {reason} after step {step}, saved, and not requeued: that was done {len(before)} times, as "
                "often as preemption.max_requeues allows. Raise it, and the same command continues the run.",
                exit_code=143,
            )
        entry = {"time": timestamp(), "job": self.job.name, "step": step, "reason": reason}
        # Before Slurm is asked: it ends this process at once.
        self.folder.note_requeues([*before, entry])
        os.write(2, f"Stopped {reason} after step {step}, saved; asking Slurm to requeue {self.job.name}.\n".encode())
        if refused := self.job.requeue():
            self.folder.note_requeues(before)
            raise Interrupted(
                f"Stopped {reason} after step {step}, saved, and not requeued: {refused}. The same command continues "
                "the run.",
                exit_code=143,
            )
        self.accepted = True
