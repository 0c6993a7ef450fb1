"""A command as a Hydra application: Hydra composes the config and sweeps, and calls the command's work."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mapolab.errors import Interrupted, RunError, UserError, disk_fault
from mapolab.job_record import note_end
from mapolab.texts import say
from mapolab.training.stopping import release_signals

# Where each command's work is done: module and function, called with the checked config.
COMMANDS = {
    "train": ("mapolab.training.command", "train"),
    "prepare": ("mapolab.training.prepare", "prepare_cache"),
    "plan": ("mapolab.plan.command", "plan"),
    "evaluate": ("mapolab.evaluation.evaluate", "evaluate"),
    "mismatch": ("mapolab.evaluation.mismatch", "mismatch"),
    "compare": ("mapolab.report.compare", "compare"),
    "export": ("mapolab.export.command", "export"),
    "make-pairs": ("mapolab.pairs.command", "make_pairs"),
    "iterate": ("mapolab.iterations.command", "iterate"),
}
TINY_BASE = ("mapolab.tiny.recipe", "run")


def run_command(command: str, arguments: list[str]) -> None:
    """Hand a command's own arguments to Hydra. Raises UserError for what Hydra cannot compose, and RunError after a
    sweep in which some jobs failed."""
    from hydra import version
    from hydra._internal.utils import _run_hydra, get_args_parser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from mapolab.config.hydra_loader import checked_hydra
    from mapolab.config.messages import explain
    from mapolab.paths import conf_folder

    # hydra.main() reads sys.argv and exits by itself; this is what it calls, hence hydra-core < 1.4 in pyproject.toml.
    version.setbase("1.3")
    parser = get_args_parser()
    parser.prog = f"mapolab {command}"
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.experimental_rerun is not None:
        raise UserError("--experimental-rerun would load a pickle. Give the command of the run's manifest.json again.")
    for option, value in (("--config-name", parsed.config_name), ("--config-path", parsed.config_path)):
        if value is not None:  # the jobs of a sweep would not have it
            raise UserError(f"{option} would leave out mapolab's own config. Add to it: --config-dir <your folder>.")
    if command == "train":
        parsed.overrides = _as_sweep(parsed.overrides)
    task = Task(command)
    with checked_hydra(), _hydra_raises() as traceback_wanted:
        try:
            _run_hydra(parsed, parser, task, str(conf_folder()), command)
        except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None and error.filename is None and task.place:
                error.filename = task.place  # Hydra's own file in a sweep's folder
            if fault := disk_fault(error):
                raise fault from None
            if traceback_wanted or error in task.crashes or isinstance(error, BrokenPipeError):
                raise
            raise UserError(explain(error, command)) from None
    if task.failures:
        raise RunError("\n".join(task.failures))


def _as_sweep(overrides: list[str]) -> list[str]:
    """The overrides with the sweep's own folder, unless they name one; a launcher or a search also stands for -m.

    Raises UserError where there can be no such folder.
    """
    from mapolab.sweeps.folder import SEVERAL, sweep_name

    for key in ("output_root", "output_dir"):
        if any(item.startswith(f"{key}=") and SEVERAL.search(item) for item in overrides):
            raise UserError(f"{key} cannot be swept over: a sweep's jobs lie below one {key}. Give it one value.")
    added = []
    if not any(item.startswith("hydra.sweep.dir=") for item in overrides):
        added.append(f"hydra.sweep.dir='${{output_root}}/sweeps/{sweep_name(overrides)}'")
    if any(item.startswith(("hydra/launcher=", "sweep=")) for item in overrides):
        added += [] if any(item.startswith("hydra.mode=") for item in overrides) else ["hydra.mode=MULTIRUN"]
    return [*overrides, *added]


@contextlib.contextmanager
def _hydra_raises() -> Iterator[bool]:
    """Within the block Hydra raises its errors instead of printing them. Yields whether the user asked for that."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield before == "1"
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


class Task:
    """What Hydra calls with a composed config, once, or once for every job of a sweep.

    Deliberate ends leave through SystemExit, which Hydra lets through at once: the jobs after it do not run. Any other
    exception is a crash; it is noted in `crashes` and keeps its traceback. failures: what mapolab's launchers, which
    start the jobs of `train` themselves, tell of those that did not finish. place: the sweep's folder, as they find it.
    """

    def __init__(self, command: str):
        self.command = command
        self.crashes: list[Exception] = []
        self.failures: list[str] = []
        self.place: str | None = None

    def __call__(self, composed: Any) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        if self.command == "train" and hydra.mode == RunMode.MULTIRUN:
            return run_as_process(composed, hydra)
        try:
            run_job(self.command, composed)
        except (UserError, RunError, Interrupted) as error:
            raise SystemExit(report(error)) from None
        except Exception as error:
            if fault := disk_fault(error):
                raise SystemExit(report(fault)) from None
            self.crashes.append(error)
            raise


def report(error: UserError | RunError | Interrupted) -> int:
    """Print a deliberate end as one paragraph, and note it in the record of a sweep's job. Returns its exit code."""
    # A message may quote a file, and a terminal would obey some of what that can hold.
    with contextlib.suppress(OSError):  # a log on a full disk
        say(f"mapolab: {error}", to_errors=True)
    note_end(error.exit_code, str(error))
    return error.exit_code


def run_job(command: str, composed: Any) -> None:
    """Check the config, then do the command's work in this process."""
    from mapolab.config import checks
    from mapolab.config.load import load

    config = load(composed, command)
    checks.check(config, command)
    tiny_base = command == "train" and config["task"] == "tiny_base"
    if tiny_base:  # it saves now and then, and ends at a signal like any program
        release_signals()
    module, function = TINY_BASE if tiny_base else COMMANDS[command]
    getattr(importlib.import_module(module), function)(config)


def run_as_process(composed: Any, hydra: Any) -> None:
    """A job of a sweep under another package's launcher (joblib's, submitit's): a process of its own, as under ours.

    The processes that Lightning starts for further devices repeat their parent's command; here that is the job's
    command, and not the whole sweep. Raises RunError if the job did not finish.
    """
    from mapolab.config.identity import run_folder
    from mapolab.config.load import load
    from mapolab.sweeps.compose import config_dir_options
    from mapolab.sweeps.folder import Job, SweepFolder
    from mapolab.sweeps.outcome import failure
    from mapolab.sweeps.process import Processes

    arguments = ["train", *config_dir_options(hydra), *hydra.overrides.task, "hydra.mode=RUN"]
    job = Job(int(hydra.job.num), arguments, Path(run_folder(load(composed, "train"))))
    folder = SweepFolder(Path(hydra.sweep.dir))
    folder.add([job])
    codes = Processes(folder).run([job])
    if message := failure(folder, [job], codes):
        raise RunError(message)
