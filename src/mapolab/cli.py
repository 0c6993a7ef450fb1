"""The command line: `mapolab train|prepare|plan|evaluate|compare|export`, each a Hydra application of its own.

Hydra composes the config, sweeps and completes; this file adds the commands, turns mistakes into one paragraph with
exit code 2, and imports torch only after the config has been checked.
"""

import contextlib
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mapolab import __version__
from mapolab.errors import Interrupted, RunError, UserError
from mapolab.training.stopping import hold_signals

# Where each command's work is done: module and function, called with the checked config.
COMMANDS = {
    "train": ("mapolab.training.command", "train"),
    "prepare": ("mapolab.training.prepare", "prepare_cache"),
    "plan": ("mapolab.plan.command", "plan"),
    "evaluate": ("mapolab.evaluation.evaluate", "evaluate"),
    "compare": ("mapolab.report.compare", "compare"),
    "export": ("mapolab.export.command", "export"),
}
TINY_BASE = ("mapolab.tiny.recipe", "run")

HELP = """\
mapolab aligns Stable Diffusion XL with preference pairs, by MaPO and the methods to compare it with.

  mapolab train     experiment=emoji_style objective=mapo seed=0       train a run, or continue it
  mapolab train     -m objective=sft,mapo,diffusion_dpo seed=0,1       a sweep: every combination in turn
  mapolab prepare   data=pickapic_v2 model=sdxl data.cache=true        encode a data set once, for all runs
  mapolab plan      model=sdxl strategy=ddp accelerator=a100_80gb      does it fit, how long does it take
  mapolab evaluate  run=outputs/emoji_style/mapo-seed0-1a2b3c4d        generate and score its pictures
  mapolab compare   runs='outputs/emoji_style/*'                       tables, curves and a picture wall
  mapolab export    run=outputs/emoji_style/mapo-seed0-1a2b3c4d to=out for diffusers, ComfyUI, A1111

Every key of the config is an override, key=value. Each command knows:
  --help           its config groups, and its config with all keys
  --cfg job        the config that it would run with (add --resolve for the values)
  --config-dir D   a folder with config groups of your own
  -m               sweep over values with commas

mapolab --version               print the version
eval "$(mapolab -sc install=bash)"   completion in this shell (also zsh, fish)
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 (the run failed), 2 (a mistake to correct), 128 + signal."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Its advice on optional packages concerns image processors that mapolab does not use. A user's own setting stands.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if arguments[:1] == ["train"]:
        hold_signals()
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except (UserError, RunError, Interrupted) as error:
        return _report(error)
    except SystemExit as error:  # a job that ended on purpose, or --help of a command
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BrokenPipeError:  # the reader of our output left, as in `mapolab train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return _report(Interrupted("Stopped by SIGINT. The same command continues from what was saved."))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
    elif "--version" in arguments:
        print(f"mapolab {__version__}")
    elif arguments[0] in ("-sc", "--shell-completion"):
        _complete(arguments)
    elif arguments[0] in COMMANDS:
        _run_command(arguments[0], arguments[1:])
    else:
        from mapolab.config.suggest import did_you_mean

        hint = did_you_mean(arguments[0], COMMANDS)
        raise UserError(f"There is no command {arguments[0]}.{hint} The commands: {', '.join(COMMANDS)}.")
    return 0


def _run_command(command: str, arguments: list[str]) -> None:
    """Hand a command's own arguments to Hydra. Raises UserError for what Hydra cannot compose."""
    from hydra import version
    from hydra._internal.utils import _run_hydra, get_args_parser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from mapolab.config.messages import explain
    from mapolab.paths import conf_folder

    # hydra.main() reads sys.argv and exits by itself; this is what it calls, hence hydra-core < 1.4 in pyproject.toml.
    version.setbase("1.3")
    parser = get_args_parser()
    parser.prog = f"mapolab {command}"
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.experimental_rerun is not None:
        raise UserError("--experimental-rerun would load a pickle. Give the command of the run's manifest.json again.")
    crashes: list[Exception] = []
    with _hydra_raises() as traceback_wanted:
        try:
            _run_hydra(parsed, parser, _task(command, crashes), str(conf_folder()), command)
        except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
            if traceback_wanted or error in crashes or isinstance(error, BrokenPipeError):
                raise
            raise UserError(explain(error, command)) from None


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


def _task(command: str, crashes: list[Exception]) -> Callable[[Any], None]:
    """What Hydra calls with a composed config, once, or once for every job of a sweep.

    Deliberate ends leave through SystemExit, which Hydra lets through at once: the jobs after it do not run. Any other
    exception is a crash; it is noted in `crashes` and keeps its traceback.
    """

    def task(composed: Any) -> None:
        try:
            _run_job(command, composed)
        except (UserError, RunError, Interrupted) as error:
            raise SystemExit(_report(error)) from None
        except Exception as error:
            crashes.append(error)
            raise

    return task


def _run_job(command: str, composed: Any) -> None:
    from mapolab.config import checks
    from mapolab.config.load import load

    config = load(composed, command)
    checks.check(config, command)
    if command == "train":
        _announce_job(config)
    tiny_base = command == "train" and config["task"] == "tiny_base"
    module, function = TINY_BASE if tiny_base else COMMANDS[command]
    getattr(importlib.import_module(module), function)(config)


def _announce_job(config: dict[str, Any]) -> None:
    """In a sweep, say which job this is and where it runs. Raises UserError for a sweep of several processes a run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from mapolab.config.identity import run_folder

    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return
    if config["strategy"]["devices"] != 1 or config["strategy"]["num_nodes"] != 1:
        raise UserError(
            "A sweep (-m) runs each job in one process: the processes that Lightning starts for further devices would "
            "each repeat the whole sweep. Set strategy=single, or start the runs one after another without -m."
        )
    print(f"Job {hydra.job.num}: {' '.join(hydra.overrides.task)} in {run_folder(config)}", flush=True)


def _complete(arguments: list[str]) -> None:
    """Shell completion: the command first, then Hydra's own completion of that command's config.

    The shell's function calls `mapolab -sc query=bash` with the line so far in COMP_LINE; Hydra expects there a line
    without a command.
    """
    if not any(argument.startswith("query=") for argument in arguments):
        return _run_command("train", arguments)  # install, uninstall: the same for every command
    line = os.environ.get("COMP_LINE", "")
    typed = re.fullmatch(r"\s*\S+\s+(\S+)\s+(.*)", line)
    if typed is None:
        begun = [*line.split(), "", ""][1]
        print(" ".join(command for command in COMMANDS if command.startswith(begun)))
    elif typed[1] in COMMANDS:
        os.environ["COMP_LINE"] = f"mapolab {typed[2]}"
        _run_command(typed[1], arguments)


def _report(error: UserError | RunError | Interrupted) -> int:
    """Print a deliberate end as one paragraph. Returns its exit code."""
    print(f"mapolab: {error}", file=sys.stderr, flush=True)
    return error.exit_code
