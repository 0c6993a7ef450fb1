"""A sweep's folder: its grid, a record of each job, logs. All that `mapolab status` reads.

    outputs/sweeps/objective+seed-1a2b3c4d/
        grid.csv         a line for each job: its number, overrides, run folder and command
        jobs/0.json      the same, and how its last start ended
        logs/0.log       what the job printed, where it had no terminal
        multirun.yaml    Hydra's config of the sweep
        job.sh           with hydra/launcher=slurm: the script that was submitted

The runs themselves lie where they always do: the same run in two sweeps is one run.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mapolab.files import csv_text, short_hash, sweep, write_text
from mapolab.job_record import JobRecord, note_job, read_record
from mapolab.output import SWEEP, OutputFolder

# What a sweep leaves in its folder from its first moment on.
MARKS = ("multirun.yaml", "grid.csv", "jobs")
# What is written to, in place: a link would take it elsewhere.
WRITTEN = ("jobs", "logs", "trials", "study.journal", "study.lock")
SEVERAL = re.compile(r",|\b(choice|range|interval|glob)\(")


@dataclass(frozen=True)
class Job:
    """One run of a sweep. arguments: those of `mapolab` that run it alone, and continue it. run: its folder."""

    number: int
    arguments: list[str]
    run: Path

    @property
    def overrides(self) -> list[str]:
        """What sets it apart, as the user wrote it."""
        return [item for item in self.arguments[1:] if not item.startswith(("-", "hydra"))]

    @property
    def command(self) -> str:
        return shlex.join(["mapolab", *self.arguments])


class SweepFolder:
    """Written by the command that sweeps; each job's record also by the job."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def status_command(self) -> str:
        return shlex.join(["mapolab", "status", str(self.path)])

    def check(self) -> None:
        """Raise UserError unless the folder can be this sweep's: a new or empty one, or one of a sweep."""
        OutputFolder(self.path, SWEEP).check()

    def record_file(self, number: int) -> Path:
        return self.path / "jobs" / f"{number}.json"

    def log_file(self, number: int) -> Path:
        return self.path / "logs" / f"{number}.log"

    def add(self, jobs: Sequence[Job]) -> None:
        """Record jobs; what is known of them from an earlier start stays. Raises UserError for a folder that holds
        something else."""
        self.check()
        (self.path / "logs").mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.path / "jobs"):
            sweep(folder)
        for job in jobs:
            known = {"number": job.number, "arguments": job.arguments, "run": str(job.run)}
            note_job(self.record_file(job.number), **known)
        write_text(self.path / "grid.csv", _grid(self.jobs()))

    def jobs(self) -> list[Job]:
        """All jobs, by number."""
        records = [read_record(file) for file in sorted(self.path.glob("jobs/*.json"))]
        whole = [item for item in records if item.keys() >= {"number", "arguments", "run"}]
        jobs = [Job(item["number"], item["arguments"], Path(item["run"])) for item in whole]
        return sorted(jobs, key=lambda job: job.number)

    def record(self, number: int) -> JobRecord:
        """What is known of a job: `exit_code` and `message` of its last end, `slurm` (its number there)."""
        return read_record(self.record_file(number))


def sweep_name(arguments: Sequence[str]) -> str:
    """A stable name for the sweep of these arguments: what varies, and a hash. How it is launched does not count."""
    given = sorted(item for item in arguments if not item.startswith(("-", "hydra/launcher", "hydra.launcher")))
    pairs = [item.lstrip("+~").partition("=")[::2] for item in given]
    named = [value for key, value in pairs if key == "sweep"]
    varied = [key.rpartition(".")[2].rpartition("/")[2] for key, value in pairs if SEVERAL.search(value)]
    name = "+".join(named or varied)[:60] or "single"
    return f"{re.sub(r'[^A-Za-z0-9_+.-]', '_', name)}-{short_hash(given)}"


def _grid(jobs: list[Job]) -> str:
    rows = [dict(item.partition("=")[::2] for item in job.overrides) for job in jobs]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [
        [job.number, *(row.get(key, "") for key in keys), job.run, job.command]
        for job, row in zip(jobs, rows, strict=True)
    ]
    return csv_text([["job", *keys, "run", "command"], *lines])
