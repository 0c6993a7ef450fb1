"""Hydra's plugins of mapolab. Hydra imports this at every start, so nothing heavy is imported here."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with lists and dicts of Python in place of OmegaConf's."""
    return {key: OmegaConf.to_container(item) if OmegaConf.is_config(item) else item for key, item in settings.items()}


class _MapolabLauncher(Launcher):
    """Keeps what Hydra hands over; `mapolab.sweeps.launch` does the work."""

    kind = ""

    def __init__(self, **settings: Any):
        self.settings = _plain(settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from pathlib import Path

        from mapolab.output import SWEEP, OutputFolder

        self.context, self.task, self.config = hydra_context, task_function, config
        if task_function.command == "train":  # before Hydra writes there; other commands have no folder of a sweep
            task_function.place = config.hydra.sweep.dir
            OutputFolder(Path(config.hydra.sweep.dir), SWEEP).check()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from mapolab.sweeps.launch import launch

        return launch(self, job_overrides, initial_job_idx)


class ProcessLauncher(_MapolabLauncher):
    """Each job a process on this machine, one after another or several at a time."""

    kind = "processes"


class SlurmLauncher(_MapolabLauncher):
    """All jobs as one array of Slurm."""

    kind = "slurm"


class RayLauncher(_MapolabLauncher):
    """Each job a task of Ray."""

    kind = "ray"


class OptunaSweeper(Sweeper):
    """Chooses the jobs' settings by what earlier jobs reached; `mapolab.sweeps.search` does the work."""

    def __init__(self, **settings: Any):
        self.settings = _plain(settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from mapolab.sweeps.search import search

        return search(self, arguments)
