"""Jobs as tasks of Ray: each runs the job's command on one of the cluster's machines."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapolab.errors import Interrupted, UserError
from mapolab.paths import conf_folder
from mapolab.sweeps.folder import Job, SweepFolder
from mapolab.sweeps.process import Processes


def run_on_ray(folder: SweepFolder, jobs: Sequence[Job], settings: dict[str, Any]) -> dict[int, int]:
    """Exit code by job number. Raises UserError without Ray or its cluster, and Interrupted on Ctrl-C: the jobs then
    save themselves."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report each use
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray 2.5x warns about otherwise
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("hydra/launcher=ray needs Ray. Install it: pip install 'mapolab[ray]'.") from None
    folder.add(jobs)
    try:
        # Ray's processes import from the folder that it is started in, and that may be a stranger's; this one has none.
        with contextlib.chdir(conf_folder()):
            ray.init(address=settings["address"], log_to_driver=False, include_dashboard=False, logging_level="error")
    except ConnectionError as error:
        raise UserError(
            f"There is no Ray cluster at hydra.launcher.address={settings['address']}: {error}. Start one with `ray "
            "start --head`, or set it to null."
        ) from None
    resources = {"num_cpus": settings["cpus_per_job"], "num_gpus": settings["gpus_per_job"]}
    task = ray.remote(max_retries=0, **resources)(_run)
    waiting = {task.remote(str(Path.cwd()), str(folder.path), job): job for job in jobs}
    print(f"Sweep of {len(jobs)} jobs in {folder.path}, on Ray", flush=True)
    codes: dict[int, int] = {}
    try:
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(done)
            codes[job.number] = ray.get(done)
            print(f"Job {job.number} ended with exit code {codes[job.number]}", flush=True)
    except KeyboardInterrupt:
        for reference in waiting:
            ray.cancel(reference)  # a SIGINT to the task, which passes it on to the job
        ray.wait(list(waiting), num_returns=len(waiting), timeout=600)
        raise Interrupted(
            f"The sweep was stopped by SIGINT; {len(codes)} of {len(jobs)} jobs had ended. The same command "
            "continues it."
        ) from None
    finally:
        ray.shutdown()
    return codes


def _run(working_folder: str, sweep_folder: str, job: Job) -> int:
    """On a machine of the cluster. Returns the job's exit code."""
    os.chdir(working_folder)
    return Processes(SweepFolder(Path(sweep_folder)), to_logs=True).run([job])[job.number]
