"""mapolab's commands in processes that are killed, at a moment or at a file boundary.

One process imports everything and forks a child for each command, so that a kill falls into the command's work and not
into seconds of imports.
"""

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

PATIENCE = 300  # seconds; only a hang takes as long
# Audit events of the interpreter that precede a change of the disk, as `test_checkpoint_writes` counts them.
BOUNDARIES = ("open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: negative after a signal. boundaries: files that it opened, renamed or removed below
    the watched folder; None where it was killed. memory: of it, at its peak, in bytes."""

    code: int
    seconds: float
    memory: int
    boundaries: int | None
    output: str


class Commands:
    """Runs commands below `folder`. Modules that cost time are imported once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> "Commands":
        self.log = open(self.folder / "server.log", "w")
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdout and self.process.stdout.readline() == "ready\n", self.read_log()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.log.close()

    def run(self, arguments: list[str], after: float | None = None, at: int | None = None) -> Ended:
        """after: seconds after which it is killed. at: the file boundary, counted from 1, at which it kills itself."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps({"arguments": arguments, "after": after, "at": at}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, self.read_log()
        return Ended(**json.loads(answer))

    def read_log(self) -> str:
        return (self.folder / "server.log").read_text()


def serve(folder: Path) -> None:
    """Fork a child for each line of standard input, and say how it ended on standard output."""
    import time

    import diffusers
    import torch

    from mapolab import cli
    from mapolab.evaluation import evaluate, generation
    from mapolab.export import command
    from mapolab.pairs import command as pairs
    from mapolab.report import compare
    from mapolab.training import command as training

    _ = cli, evaluate, generation, command, pairs, compare, training, torch
    _ = diffusers.StableDiffusionXLPipeline, diffusers.UNet2DConditionModel, diffusers.AutoencoderKL
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked, told, begun = json.loads(line), folder / "told", time.monotonic()
        told.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            _work(asked["arguments"], asked["at"], folder, told)
        killer = threading.Timer(asked["after"], os.kill, (child, 9)) if asked["after"] is not None else None
        if killer:
            killer.start()
        _, status, usage = os.wait4(child, 0)
        if killer:
            killer.cancel()
            killer.join()
        seconds, code = time.monotonic() - begun, os.waitstatus_to_exitcode(status)
        found = json.loads(told.read_text()) if told.exists() else {"boundaries": None}
        output = (folder / "output").read_text(errors="replace")
        found |= {"code": code, "seconds": seconds, "memory": 1024 * usage.ru_maxrss, "output": output}
        print(json.dumps(found), file=answers, flush=True)


def _work(arguments: list[str], at: int | None, folder: Path, told: Path) -> None:
    """The child: the command line, counting boundaries below `folder`; it does not return."""
    from mapolab.cli import main

    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    count, below = 0, str(folder)

    def watch(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count
        if event in BOUNDARIES and below in str(details[0]) and not (event == "open" and details[1] in ("r", "rb")):
            count += 1
            if count == at:
                os.kill(os.getpid(), 9)

    sys.addaudithook(watch)
    code = 70
    try:
        code = main(arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
    told.write_text(json.dumps({"boundaries": count}))
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
