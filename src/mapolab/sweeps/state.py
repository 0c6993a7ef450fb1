"""How a job stands, from its files alone: the manifest, the lock, the metrics, the sweep's record of it."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from mapolab.config.identity import samples_per_step
from mapolab.errors import UserError
from mapolab.job_record import JobRecord
from mapolab.reading import read_numbers
from mapolab.run_files import RUN_FIX, Manifest
from mapolab.runs import RunFolder, number_of
from mapolab.sweeps.folder import Job

RECENT = 20  # rows of metrics.csv that the figures are taken from
NEEDED = ("samples_per_second", "consumed_samples", "loss")
# Of a run's manifest, as a sweep names it.
STATES = {"preempted": "preempted", "interrupted": "stopped", "failed": "failed"}


@dataclass(frozen=True)
class JobState:
    """state: waiting, running, preempted (comes back by itself), stopped (on request), failed, finished,
    or unreadable.

    step of steps; loss: mean of the last rows; samples_per_second; seconds_left, while running; saved: the step of the
    newest checkpoint, and its age in seconds; note: restarts, and why a job failed.
    """

    job: Job
    state: str
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    seconds_left: float | None = None
    saved: tuple[int, float] | None = None
    note: str = ""


def job_state(job: Job, record: JobRecord) -> JobState:
    """record: the sweep's, see SweepFolder.record. A run whose files cannot be read is `unreadable`, with the reason in
    its note: it hides no other job."""
    try:
        return _read_state(job, record)
    except Exception as error:  # a run's files may be cut, of another program, or a stranger's
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return JobState(job, "unreadable", note=" ".join(f"{job.run}: {reason}".split()))


def _read_state(job: Job, record: JobRecord) -> JobState:
    folder = RunFolder(job.run)
    manifest = folder.manifest()
    state = _state(folder, manifest, record)
    config = folder.config()
    rows = _last_rows(job.run / "metrics.csv")
    step = int(rows["step"][-1]) + 1 if rows else 0
    steps = config["trainer"].get("max_steps") if config else None
    speed = statistics.median(rows["samples_per_second"]) if rows else None
    left = None
    if state == "running" and speed and steps:
        per_step = samples_per_step(config) or rows["consumed_samples"][-1] / step
        left = (steps - step) * per_step / speed
    return JobState(
        job,
        state,
        step,
        steps,
        statistics.fmean(rows["loss"]) if rows else None,
        speed,
        left,
        _saved(job.run),
        _note(state, manifest, record, len(folder.requeues())),
    )


def _state(folder: RunFolder, manifest: Manifest, record: JobRecord) -> str:
    status = manifest.get("status")
    if folder.finished:
        return "finished"
    if folder.is_locked():
        return "running"
    if status in ("running", "finished"):
        return "failed"  # killed without a word, or its node was lost; or its weights are gone
    if status in STATES:
        return STATES[status]
    if folder.requeues():
        return "preempted"
    return "failed" if record.get("exit_code") else "waiting"


def _note(state: str, manifest: Manifest, record: JobRecord, requeues: int) -> str:
    parts = []
    if restarts := manifest.get("restarts"):
        parts.append(f"{restarts} restarts" + (f", {requeues} by requeue" if requeues else ""))
    if state == "failed" and manifest.get("status") == "finished":
        parts.append("finished, but its weights are gone")
    elif state == "failed":
        parts.append(manifest.get("failure") or record.get("message") or "ended without a word")
    return "; ".join(parts)


def _saved(run: Path) -> tuple[int, float] | None:
    checkpoints = RunFolder(run).checkpoints()
    if not checkpoints:
        return None
    try:
        age = time.time() - checkpoints[-1].stat().st_mtime
    except FileNotFoundError:  # replaced by a newer one just now
        return None
    return number_of(checkpoints[-1]), age


def _last_rows(file: Path) -> dict[str, list[float]]:
    """The columns of the last rows of a table that another process may be writing; empty where it has none."""
    columns = read_numbers(file, RUN_FIX, unfinished=True, last=RECENT) if file.exists() else {}
    if columns and (missing := [name for name in NEEDED if name not in columns]):
        raise UserError(f"{file} has no column {missing[0]}. {RUN_FIX}")
    return {name: values for name, values in columns.items() if values}
