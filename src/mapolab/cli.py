"""The command line: each command is a Hydra application, but for `status`.

Turns mistakes into one paragraph with exit code 2, and imports torch only after the config has been checked.
"""

import os
import re
import signal
import sys

from mapolab import __version__
from mapolab.app import COMMANDS, report, run_command
from mapolab.errors import Interrupted, RunError, UserError, disk_fault
from mapolab.import_noise import silence_imports
from mapolab.job_record import note_end
from mapolab.training.stopping import hold_signals

HELP = """\
mapolab aligns Stable Diffusion XL with preference pairs, by MaPO and the methods to compare it with.

  mapolab train     experiment=emoji_style objective=mapo seed=0       train a run, or continue it
  mapolab train     -m objective=sft,mapo,diffusion_dpo seed=0,1       a sweep: every combination
  mapolab status    outputs/sweeps/objective+seed-1a2b3c4d             how the jobs of a sweep stand
  mapolab prepare   data=pickapic_v2 model=sdxl data.cache=true        encode a data set once, for all runs
  mapolab plan      model=sdxl strategy=ddp accelerator=a100_80gb      does it fit, how long does it take
  mapolab evaluate  models=outputs/emoji_style/mapo-seed0-1a2b3c4d        generate and score its pictures
  mapolab mismatch  data=pick_style_cartoon model=sdxl features=dinov2 how far the model is from the preferred pictures
  mapolab compare   runs='outputs/emoji_style/*'                       tables, curves and a picture wall
  mapolab make-pairs recipe=ranked models=<run> prompts=prompts.txt ... preference pairs from a model's own pictures
  mapolab iterate   model=sdxl prompts=prompts.txt ranked_by=[pickscore] draw, rank, train, and again
  mapolab export    run=outputs/emoji_style/mapo-seed0-1a2b3c4d to=out for diffusers, ComfyUI, A1111

Every key of the config is an override, key=value. Each command but status knows:
  --help           its config groups, and its config with all keys
  --cfg job        the config that it would run with (add --resolve for the values)
  --config-dir D   a folder with config groups of your own
  -m               sweep over values with commas; jobs run one after another, or with hydra/launcher=processes|slurm|ray
  --sbatch FILE    train only: write the script for Slurm instead of running

mapolab --version               print the version
eval "$(mapolab -sc install=bash)"   completion in this shell (also zsh, fish)
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 (the run failed), 2 (a mistake to correct), 128 + signal."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Its advice on optional packages concerns image processors that mapolab does not use. A user's own setting stands.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Every Python that is started from here on, by whichever library, leaves the current folder out of its imports.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    silence_imports()
    if arguments[:1] == ["train"]:
        hold_signals()
    try:
        _dispatch(arguments)
        sys.stdout.flush()
        note_end(0, None)
        return 0
    except (UserError, RunError, Interrupted) as error:
        return report(error)
    except SystemExit as error:  # a job that ended on purpose, or --help of a command
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BrokenPipeError:  # the reader of our output left, as in `mapolab train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return report(Interrupted("Stopped by SIGINT. The same command continues from what was saved."))
    except Exception as error:  # a fault of the program keeps its traceback
        if fault := disk_fault(error):
            _let_go_of_output()
            return report(fault)
        note_end(1, f"{type(error).__name__}: {error}")
        raise


def _let_go_of_output() -> None:
    """What cannot be printed, as to a log on a full disk, must not be tried again at the end of the process."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
    elif "--version" in arguments:
        print(f"mapolab {__version__}")
    elif arguments[0] in ("-sc", "--shell-completion"):
        _complete(arguments)
    elif arguments[0] == "status":
        from mapolab.sweeps.status import status

        status(arguments[1:])
    elif arguments[0] in COMMANDS:
        run_command(arguments[0], _with_script(arguments[0], arguments[1:]))
    else:
        from mapolab.config.suggest import did_you_mean

        names = [*COMMANDS, "status"]
        hint = did_you_mean(arguments[0], names)
        raise UserError(f"There is no command {arguments[0]}.{hint} The commands: {', '.join(names)}.")


def _with_script(command: str, arguments: list[str]) -> list[str]:
    """`--sbatch FILE` in Hydra's words: Slurm's launcher, which writes the script there and submits nothing."""
    if "--sbatch" not in arguments:
        return arguments
    at = arguments.index("--sbatch")
    if command != "train" or at + 1 >= len(arguments) or "=" in arguments[at + 1]:
        raise UserError(
            "--sbatch takes the name of the script to write, and belongs to train: mapolab train objective=mapo "
            "--sbatch job.sh."
        )
    from hydra.core.override_parser.types import Quote, QuotedString

    quoted = QuotedString(arguments[at + 1].replace("${", "\\${"), Quote.single).with_quotes()
    launcher = ["hydra/launcher=slurm", f"hydra.launcher.script={quoted}", "hydra.launcher.submit=false"]
    return [*arguments[:at], *arguments[at + 2 :], *launcher]


def _complete(arguments: list[str]) -> None:
    """Shell completion: the command first, then Hydra's own completion of that command's config.

    The shell's function calls `mapolab -sc query=bash` with the line so far in COMP_LINE; Hydra expects there a line
    without a command.
    """
    if not any(argument.startswith("query=") for argument in arguments):
        return run_command("train", arguments)  # install, uninstall: the same for every command
    line = os.environ.get("COMP_LINE", "")
    typed = re.fullmatch(r"\s*\S+\s+(\S+)\s+(.*)", line)
    if typed is None:
        begun = [*line.split(), "", ""][1]
        print(" ".join(command for command in [*COMMANDS, "status"] if command.startswith(begun)))
    elif typed[1] in COMMANDS:
        os.environ["COMP_LINE"] = f"mapolab {typed[2]}"
        run_command(typed[1], arguments)
