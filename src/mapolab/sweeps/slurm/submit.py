"""From checked jobs to a script, and from there into Slurm's queue."""

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapolab.config.identity import run_folder
from mapolab.errors import RunError, UserError
from mapolab.files import write_text
from mapolab.job_record import note_job
from mapolab.sweeps.folder import Job, SweepFolder
from mapolab.sweeps.outcome import is_finished, needs_no_start
from mapolab.sweeps.slurm.preflight import check_cluster, check_memory, check_visible
from mapolab.sweeps.slurm.script import SIGNATURE, batch_script
from mapolab.sweeps.slurm.shape import Shape
from mapolab.training.slurm import describe

IN_THE_QUEUE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED")
BETWEEN_LOOKS = 2.0  # seconds


def submit(
    folder: SweepFolder, jobs: Sequence[Job], configs: Sequence[dict[str, Any]], settings: dict[str, Any]
) -> dict[int, int]:
    """Write the script of the jobs that are not finished, and submit it. Returns exit codes of the jobs that have
    ended, all of them where the launcher is told to wait.

    Raises UserError, before anything is submitted, for what the cluster could not run.
    """
    shape = _one_shape(configs, settings)
    check_cluster(shape, settings)
    for config in configs:
        check_visible(run_folder(config))
    check_memory(configs, settings["accelerator"])
    folder.add(jobs)
    finished = [job for job, config in zip(jobs, configs, strict=True) if needs_no_start(job, config)]
    queued = {job.number: name for job in jobs if (name := _in_queue(folder, job))}
    missing = [job for job in jobs if job not in finished and job.number not in queued]
    for number, name in queued.items():
        print(f"Job {number} is in the queue already, as {name}.")
    if missing:
        _write_and_send(folder, missing, shape, settings)
    print(f"{len(finished)} of {len(jobs)} jobs are finished. Follow them: {folder.status_command}", flush=True)
    if settings["wait"] and settings["submit"]:
        return _wait(folder, jobs, configs)
    return {job.number: 0 for job in finished}


def _one_shape(configs: Sequence[dict[str, Any]], settings: dict[str, Any]) -> Shape:
    """All tasks of an array get the same resources. Raises UserError where the jobs need different ones."""
    shapes = [Shape.of(config, settings) for config in configs]
    if len({*shapes}) > 1:
        raise UserError(
            "The jobs of one array get the same nodes and devices, but these need different ones. Submit each strategy "
            "with a command of its own."
        )
    return shapes[0]


def _in_queue(folder: SweepFolder, job: Job) -> str | None:
    """The name under which a job waits or runs since an earlier submission."""
    name = folder.record(job.number).get("slurm")
    return name if name and describe(name).get("JobState") in IN_THE_QUEUE else None


def _write_and_send(folder: SweepFolder, jobs: Sequence[Job], shape: Shape, settings: dict[str, Any]) -> None:
    script = Path(settings["script"] or folder.path / "job.sh").absolute()
    _check_script(script)
    write_text(script, batch_script(folder, jobs, shape, settings))
    script.chmod(0o755)
    if not settings["submit"]:
        print(f"Wrote {script} for {len(jobs)} jobs. Submit it: sbatch {shlex.quote(str(script))}")
        return
    if shutil.which("sbatch") is None:
        raise UserError(
            f"sbatch is not found on this machine, so nothing was submitted. The script is written: copy {script} to "
            "the cluster, or start jobs here with hydra/launcher=sequence."
        )
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"sbatch refuses {script}: {done.stderr.strip()} Change hydra.launcher or the script.")
    number = done.stdout.strip().partition(";")[0]
    for job in jobs:
        name = f"{number}_{job.number}" if len(jobs) > 1 else number
        note_job(folder.record_file(job.number), slurm=name, exit_code=None, message=None)
    print(f"Submitted {len(jobs)} jobs as {number}; the script is {script}.")


def _check_script(script: Path) -> None:
    """Raise UserError where something else than a script of mapolab's would be lost."""
    try:
        if script.exists() and SIGNATURE not in script.read_bytes()[:200].decode(errors="replace"):
            raise UserError(f"{script} exists, and is no script that mapolab wrote. Name another one, or remove it.")
    except OSError as error:
        raise UserError(f"The script cannot be written to {script}: {error.strerror}. Name another file.") from None


def _wait(folder: SweepFolder, jobs: Sequence[Job], configs: Sequence[dict[str, Any]]) -> dict[int, int]:
    """Until no job is in the queue: its files say how it ended."""
    codes: dict[int, int] = {}
    try:
        while len(codes) < len(jobs):
            for job, config in zip(jobs, configs, strict=True):
                if job.number not in codes and not _in_queue(folder, job):
                    codes[job.number] = 0 if is_finished(job, config) else 1
            time.sleep(BETWEEN_LOOKS)
    except KeyboardInterrupt:
        raise RunError(
            f"Stopped waiting; the jobs go on in Slurm. Follow them: {folder.status_command}. The same command "
            "waits again."
        ) from None
    return codes
