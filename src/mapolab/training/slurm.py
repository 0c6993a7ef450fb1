"""The Slurm batch job that this process runs in: its number, its time limit, and asking Slurm to run it again."""

import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

SECONDS_FOR_AN_ANSWER = 20  # a busy controller takes some
TRIES = 3


@dataclass(frozen=True)
class SlurmJob:
    """A batch job. name: as scontrol knows it, `<array>_<task>` in an array.

    ends_at: when its time limit kills it, in seconds since the epoch; None without a limit.
    """

    name: str
    ends_at: float | None

    @classmethod
    def current(cls, environment: Mapping[str, str] = os.environ) -> "SlurmJob | None":
        """The batch job of this process. None outside of Slurm, and in an interactive allocation, which cannot run
        again."""
        name = job_name(environment)
        if name is None:
            return None
        facts = describe(name)
        if facts.get("BatchFlag", "1") == "0":
            return None
        ends_at = environment.get("SLURM_JOB_END_TIME")  # from Slurm 23.02 on, without a question to the controller
        return cls(name, float(ends_at) if ends_at else _seconds(facts.get("EndTime", "")))

    def requeue(self) -> str | None:
        """Ask Slurm to run the job again. Returns None, or why Slurm will not.

        Slurm ends all processes of the job then. A job that Slurm is ending already stays as it is: to requeue one that
        somebody cancelled would bring it back to life, and one that Slurm itself preempts comes back anyway.
        """
        facts = describe(self.name)
        if facts.get("JobState") in ("COMPLETING", "CANCELLED") and not _timed_out(facts):
            return "Slurm is ending the job already, cancelled or requeued by Slurm itself"
        for attempt in range(TRIES):
            answer = _ask("scontrol", "requeue", self.name)
            if answer is not None and answer.returncode == 0:
                return None
            time.sleep(attempt)
        return f"scontrol requeue {self.name}: {answer.stderr.strip()}" if answer else "scontrol cannot be run here"


def job_name(environment: Mapping[str, str] = os.environ) -> str | None:
    """The name of the job that scontrol takes; None outside of Slurm."""
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


def describe(name: str) -> dict[str, str]:
    """The fields that scontrol shows of a job; empty where it does not answer."""
    answer = _ask("scontrol", "show", "job", "-o", name)
    if answer is None or answer.returncode:
        return {}
    return dict(re.findall(r"(\w+)=(\S*)", answer.stdout))


def _timed_out(facts: dict[str, str]) -> bool:
    """Whether a job that Slurm is ending has reached its time limit, as it is now: it can be changed meanwhile."""
    days, _, clock = facts.get("TimeLimit", "").rpartition("-")
    parts = clock.split(":")
    started = _seconds(facts.get("StartTime", ""))
    if started is None or len(parts) != 3 or not all(part.isdigit() for part in parts):  # UNLIMITED, say
        return False
    hours, minutes, seconds = (int(part) for part in parts)
    return time.time() >= started + ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds - 1


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    """None where the command is not there or does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_FOR_AN_ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _seconds(written: str) -> float | None:
    """Slurm's local time 2026-01-31T12:00:00, or Unknown."""
    try:
        return datetime.fromisoformat(written).timestamp()
    except ValueError:
        return None
