"""What mapolab's Hydra launchers do with a batch of jobs: check all of them, run them, tell how each ended."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from mapolab.errors import UserError
from mapolab.sweeps.compose import compose_jobs
from mapolab.sweeps.folder import Job, SweepFolder
from mapolab.sweeps.outcome import failure, needs_no_start
from mapolab.sweeps.process import Processes
from mapolab.training.stopping import release_signals


def launch(plugin: Any, overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Run a job for each list of overrides. plugin: a launcher of hydra_plugins. first: the first job's number.

    A job that fails does not stop the others: plugin.task.failures tells of it after the sweep. Raises UserError for
    what is wrong with a job's config, before any of them starts.
    """
    if plugin.task.command != "train":
        return _in_this_process(plugin, overrides, first)
    runner, nodes = RUNNERS[plugin.kind], plugin.settings.get("nodes")
    jobs, configs = compose_jobs(plugin.context.config_loader, plugin.config, overrides, first, nodes)
    folder = SweepFolder(Path(plugin.config.hydra.sweep.dir))
    release_signals()  # what starts the jobs decides what a signal means
    codes = runner(folder, jobs, configs, plugin.settings)
    if message := failure(folder, jobs, codes):
        plugin.task.failures.append(message)
    return [_job_return(job, list(given), codes) for job, given in zip(jobs, overrides, strict=True)]


def _in_this_process(plugin: Any, overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """The other commands are short and need no process of their own."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    basic = BasicLauncher()
    basic.setup(hydra_context=plugin.context, task_function=plugin.task, config=plugin.config)
    return list(basic.launch(overrides, first))


def _job_return(job: Job, given: list[str], codes: dict[int, int]) -> JobReturn:
    """For sweepers: the value of a finished job is its folder, of any other None."""
    returned = JobReturn(overrides=given, status=JobStatus.COMPLETED)
    returned.return_value = str(job.run) if codes.get(job.number) == 0 else None
    return returned


def _processes(
    folder: SweepFolder, jobs: list[Job], configs: list[dict[str, Any]], settings: dict[str, Any]
) -> dict[int, int]:
    parallel, gpus = settings["parallel"], settings["gpus"]
    if type(parallel) is not int or parallel < 1:
        raise UserError(f"hydra.launcher.parallel is {parallel}; give a number of 1 or more.")
    if gpus is not None and (len(gpus) < parallel or len(gpus) % parallel):
        raise UserError(
            f"hydra.launcher.gpus names {len(gpus)} GPUs for {parallel} jobs at a time. Make it a multiple of "
            "hydra.launcher.parallel."
        )
    folder.add(jobs)
    print(f"Sweep of {len(jobs)} jobs in {folder.path}", flush=True)
    finished = {job.number: 0 for job, config in zip(jobs, configs, strict=True) if needs_no_start(job, config)}
    for number in finished:
        print(f"Job {number} is finished already.", flush=True)
    missing = [job for job in jobs if job.number not in finished]
    return finished | Processes(folder, parallel, gpus).run(missing, lambda text: print(text, flush=True))


def _slurm(
    folder: SweepFolder, jobs: list[Job], configs: list[dict[str, Any]], settings: dict[str, Any]
) -> dict[int, int]:
    from mapolab.sweeps.slurm.submit import submit

    return submit(folder, jobs, configs, settings)


def _ray(
    folder: SweepFolder, jobs: list[Job], configs: list[dict[str, Any]], settings: dict[str, Any]
) -> dict[int, int]:
    from mapolab.sweeps.ray import run_on_ray

    return run_on_ray(folder, jobs, settings)


RUNNERS: dict[str, Callable[..., dict[int, int]]] = {"processes": _processes, "slurm": _slurm, "ray": _ray}
