"""Searches with Optuna, in a study that several processes share and that survives all of them.

A trial is a job, numbered alike. One whose process died is taken up again with its values, so its run is found in its
folder and continues; nothing is drawn anew.
"""

import contextlib
import fcntl
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mapolab.errors import RunError, UserError
from mapolab.files import write_text
from mapolab.output import SWEEP, OutputFolder
from mapolab.sweeps.outcome import check_metric, metric
from mapolab.sweeps.space import Dimension, grid, read_space

SAMPLERS = ("tpe", "random", "grid")


def search(plugin: Any, arguments: Sequence[str]) -> None:
    """Run trials until the study has all of them, then write best.yaml and print it. plugin: Hydra's sweeper.

    Raises UserError for a space or settings that make no search.
    """
    settings = plugin.settings
    _check(settings)
    folder = Path(plugin.config.hydra.sweep.dir)
    OutputFolder(folder, SWEEP).check()
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(plugin.config, folder / "multirun.yaml")
    parser = OverridesParser.create(config_loader=plugin.context.config_loader)
    given = [f"{key}={value}" for key, value in settings["params"].items()]
    fixed, space = read_space(parser.parse_overrides([*given, *arguments]))
    if not space:
        raise UserError(
            "This search has nothing to vary. Give a key a range: 'optimizer.lr=tag(log,interval(1e-6,1e-3))', or "
            "hydra.sweeper.params."
        )
    if plugin.launcher.settings.get("submit") is not None:
        plugin.launcher.settings["wait"] = True  # Slurm's launcher: the next trials depend on these
    study = Study(folder, space, settings)
    while batch := study.next_trials():
        for number, overrides, value_of in _launched(plugin.launcher, fixed, batch):
            study.tell(number, overrides, value_of)
    _finish(study, folder)


def _launched(launcher: Any, fixed: list[str], batch: dict[int, list[str]]) -> Iterator[tuple[int, list[str], Any]]:
    """(number, overrides, run folder or None) of each trial. Hydra numbers a batch from its first job on, so trials
    that are no neighbours go in batches of their own."""
    for _, group in itertools.groupby(enumerate(sorted(batch)), key=lambda item: item[1] - item[0]):
        numbers = [number for _, number in group]
        returned = launcher.launch([fixed + batch[number] for number in numbers], numbers[0])
        for number, job in zip(numbers, returned, strict=True):
            yield number, batch[number], job.return_value


class Study:
    """Optuna's study in a journal file, which works on shared file systems too."""

    def __init__(self, folder: Path, space: dict[str, Dimension], settings: dict[str, Any]):
        optuna = _optuna()
        self.folder, self.space, self.settings, self.optuna = folder, space, settings, optuna
        self.points = grid(space) if settings["sampler"] == "grid" else None
        self.most = len(self.points) if self.points is not None else settings["trials"]
        self.locks: dict[int, IO[str]] = {}
        self.failures: list[str] = []
        backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
        with self._alone():
            self.study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="mapolab",
                direction=settings["direction"],
                load_if_exists=True,
            )
            for point in self.points or []:
                self.study.enqueue_trial(point, skip_if_exists=True)

    def next_trials(self) -> dict[int, list[str]]:
        """The overrides of up to `parallel` trials, by number; those of dead processes first. Empty: nothing is left
        for this process."""
        batch: dict[int, list[str]] = {}
        with self._alone():
            for trial in self.study.get_trials(deepcopy=False):
                if (
                    len(batch) < self.settings["parallel"]
                    and trial.state.name == "RUNNING"
                    and self._take(trial.number)
                ):
                    batch[trial.number] = self._overrides(trial.params)
            self.study.sampler = self._sampler()
            while len(batch) < self.settings["parallel"] and self._asked() < self.most:
                trial = self.study.ask()
                values = {key: dimension.suggest(trial, key) for key, dimension in self.space.items()}
                self._take(trial.number)
                batch[trial.number] = self._overrides(values)
        return batch

    def tell(self, number: int, overrides: list[str], run: str | None) -> None:
        """Note what a trial reached. One whose job failed is a failed trial."""
        try:
            value = metric(Path(run), self.settings["metric"]) if run is not None else None
        except RunError as error:
            print(f"Trial {number}: {error}", flush=True)
            value = None
        with self._alone():
            if value is None:
                self.study.tell(number, state=self.optuna.trial.TrialState.FAIL)
            else:
                self.study.tell(number, value)
        self.locks.pop(number).close()
        shown = "failed" if value is None else f"{self.settings['metric']} {value:.4g}"
        print(f"Trial {number}: {' '.join(overrides)}: {shown}", flush=True)

    def best(self) -> list[dict[str, Any]]:
        """The best trial of all, or of each value of `best_for`: its value, number and settings."""
        key, sign = self.settings["best_for"], 1 if self.settings["direction"] == "minimize" else -1
        best: dict[Any, Any] = {}
        for trial in self.study.get_trials(states=[self.optuna.trial.TrialState.COMPLETE]):
            group = trial.params.get(key) if key else None
            if group not in best or sign * trial.value < sign * best[group].value:
                best[group] = trial
        return [
            {self.settings["metric"]: trial.value, "job": trial.number, "settings": trial.params}
            for trial in best.values()
        ]

    def _asked(self) -> int:
        """Trials that have been started by anybody."""
        return sum(trial.state.name != "WAITING" for trial in self.study.get_trials(deepcopy=False))

    def _sampler(self) -> Any:
        # Processes that share a study would draw the same values from the same seed.
        seed = self.settings["seed"] + self._asked()
        samplers = self.optuna.samplers
        if self.settings["sampler"] == "tpe":
            return samplers.TPESampler(seed=seed, constant_liar=True)
        return samplers.RandomSampler(seed=seed)

    def _overrides(self, values: dict[str, Any]) -> list[str]:
        """Raises UserError for values that this search cannot have chosen: they come from a file."""
        for key, dimension in self.space.items():
            if key not in values or not dimension.holds(values[key]):
                raise UserError(
                    f"{self.folder / 'study.journal'} holds a trial with {key}={values.get(key)}, which is none of the "
                    "values that are searched. Name another folder by hydra.sweep.dir."
                )
        return [f"{key}={values[key]}" for key in self.space]

    def _take(self, number: int) -> bool:
        """Hold a trial's lock as long as this process lives; False if another process lives that holds it."""
        if number in self.locks:
            return False
        path = self.folder / "trials" / f"{number}.lock"
        path.parent.mkdir(exist_ok=True)
        file = open(path, "a")  # noqa: SIM115, held on purpose
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self.locks[number] = file
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Of the processes that share the study one at a time counts and draws."""
        with open(self.folder / "study.lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            except (UserError, OSError):
                raise
            except Exception as error:  # Optuna reads the journal and compares it with the search at each call
                raise UserError(
                    f"{self.folder / 'study.journal'} cannot be continued by this search "
                    f"({type(error).__name__}: {error}). Give the command that began it, or another hydra.sweep.dir."
                ) from None


def _check(settings: dict[str, Any]) -> None:
    for key, known in (("sampler", SAMPLERS), ("direction", ("minimize", "maximize"))):
        if settings[key] not in known:
            raise UserError(f"hydra.sweeper.{key} is {settings[key]}. Choose one of {', '.join(known)}.")
    for key in ("trials", "parallel"):
        if type(settings[key]) is not int or settings[key] < 1:
            raise UserError(f"hydra.sweeper.{key} is {settings[key]}; give a number of 1 or more.")
    check_metric(str(settings["metric"]))


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError("A search needs Optuna. Install it: pip install 'mapolab[optuna]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _finish(study: Study, folder: Path) -> None:
    best = study.best()
    write_text(folder / "best.yaml", OmegaConf.to_yaml(OmegaConf.create(best)))
    for item in best:
        settings = " ".join(f"{key}={value}" for key, value in item["settings"].items())
        name = study.settings["metric"]
        print(f"Best: {settings} ({name} {item[name]:.4g}, job {item['job']})", flush=True)
