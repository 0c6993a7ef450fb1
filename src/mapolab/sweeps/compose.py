"""From the overrides that Hydra's sweeper makes to jobs whose configs have all passed the start-up checks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from mapolab.config import checks
from mapolab.config.identity import run_folder
from mapolab.config.load import load
from mapolab.errors import UserError
from mapolab.sweeps.folder import Job

# Of the sweep, not of a job: where all of it lies, how jobs start, what is searched.
NOT_THE_JOBS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep", "hydra.mode")


def compose_jobs(
    loader: Any, master: DictConfig, overrides: Sequence[Sequence[str]], first: int, nodes: int | None = None
) -> tuple[list[Job], list[dict[str, Any]]]:
    """The jobs and their typed configs. first: the first job's number. nodes: machines a job, where Slurm gives them.

    Raises UserError, naming the job, for a config that could not run, and for two jobs with one folder.
    """
    jobs, configs, folders = [], [], {}
    options = config_dir_options(master.hydra)
    kept = [item for item in master.hydra.overrides.hydra if not item.lstrip("+~").startswith(NOT_THE_JOBS)]
    for number, given in enumerate(overrides, start=first):
        given = [item for item in given if not item.lstrip("+~").startswith("hydra")]
        try:
            config = _typed(loader.load_sweep_config(master, list(given)), nodes)
            checks.check(config, "train")
        except UserError as error:
            raise UserError(f"Job {number} ({' '.join(given)}): {error}") from None
        folder = run_folder(config)
        if folder in folders:
            raise UserError(
                f"Jobs {folders[folder]} and {number} are the same run ({folder}): what differs between them does not "
                "change the weights, or output_dir names one folder for all. Sweep over something else."
            )
        folders[folder] = number
        arguments = ["train", *options, *given, *kept, *_run_alone(master)]
        jobs.append(Job(number, arguments, Path(folder)))
        configs.append(config)
    return jobs, configs


def config_dir_options(hydra: Any) -> list[str]:
    """`--config-dir D`, if the sweep was given one: its jobs need it too."""
    given = [item for item in hydra.runtime.config_sources if item.provider == "command-line"]
    return [word for item in given for word in ("--config-dir", item.path)]


def _run_alone(master: DictConfig) -> list[str]:
    """`hydra.mode=RUN` where a sweep file or a launcher turns sweeping on by itself."""
    swept = any(item.startswith("sweep=") for item in master.hydra.overrides.task)
    return ["hydra.mode=RUN"] if swept else []


def _typed(composed: DictConfig, nodes: int | None) -> dict[str, Any]:
    with open_dict(composed):
        del composed["hydra"]
    if nodes is not None and composed.strategy.num_nodes == "auto":
        composed.strategy.num_nodes = nodes
    return load(composed, "train")
