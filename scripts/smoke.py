"""Runs every way to train for some steps and prints which of them work: `python scripts/smoke.py`.

For the owner of a GPU, since we have none: about five minutes with the tiny twin, and `--model sdxl` for the real one.
Paths that need more than the machine has are skipped, with the reason. Exit code 1 if anything failed.
"""

import argparse
import importlib.util
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mapolab.files import read_json

TIME_LIMIT = 1800  # seconds for one path
MODELS = {
    "tiny_twin": ["data.resolution=64", "data.batch_size=4"],
    "sdxl": ["data.resolution=512", "data.batch_size=1", "optimizer=adamw_8bit"],
}


@dataclass(frozen=True)
class Outcome:
    """result: pass, FAIL or skipped."""

    result: str
    seconds: float = 0.0
    note: str = ""


class Smoke:
    """The paths, each a method that runs the real command and raises on failure."""

    def __init__(self, model: str, steps: int, root: Path):
        self.model, self.steps, self.root = model, steps, root
        self.gpus = torch.cuda.device_count()

    def full(self) -> None:
        self._train("full", "objective=mapo")

    def lora(self) -> None:
        precision = [] if self.model == "tiny_twin" else ["trainer.precision=bf16-mixed"]
        self._train("lora", f"model={self.model}_lora", "model.lora.rank=8", "objective=diffusion_dpo", *precision)

    def on_line(self) -> None:
        self._train("on_line", "data.cache=false", "data.num_workers=1")

    def cache(self) -> None:
        self._mapolab("prepare", *self._settings("cached"), "data.cache=true")
        self._train("cached", "data.cache=true")

    def bf16(self) -> None:
        self._train("bf16", "trainer.precision=bf16-mixed")

    def pure_bf16(self) -> None:
        self._needs("torchao")
        self._train("pure_bf16", "model.trained_dtype=bfloat16", "optimizer=adamw_bf16", "trainer.precision=bf16-mixed")

    def eight_bit(self) -> None:
        self._needs("bitsandbytes")
        self._train("eight_bit", "optimizer=adamw_8bit")

    def offloaded_reference(self) -> None:
        self._train("offloaded", "objective=diffusion_dpo", "model.reference=offloaded_copy")

    def compile(self) -> None:
        self._train("compile", "model.compile=true", "model.channels_last=true")

    def ddp(self) -> None:
        """On GPUs if there are two, else by two processes on the CPU, which the tiny twin can."""
        if self.gpus < 2 and (self.gpus or self.model != "tiny_twin"):
            raise Skipped("needs two GPUs")
        on_cpu = [] if self.gpus else ["strategy.accelerator=cpu"]
        self._train("ddp", "strategy=ddp", "strategy.devices=2", *on_cpu)

    def fsdp(self) -> None:
        self._sharded("fsdp")

    def deepspeed(self) -> None:
        self._needs("deepspeed")
        self._sharded("deepspeed_zero2")

    def deepspeed_offload(self) -> None:
        self._needs("deepspeed")
        self._sharded("deepspeed_zero3_offload")

    def resume(self) -> None:
        """Ctrl-C after two steps, then the same command again."""
        steps = 200 if self.model == "tiny_twin" else 20  # enough to be interrupted in
        settings = self._settings("resume", f"trainer.max_steps={steps}")
        folder = self.root / "resume"
        process = subprocess.Popen(command("train", *settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: (folder / "metrics.csv").exists() and len(lines(folder / "metrics.csv")) > 2, process)
        process.send_signal(signal.SIGINT)
        if process.wait(TIME_LIMIT) != 130:
            raise Failed(f"exit code {process.returncode} after Ctrl-C, not 130")
        done = len(lines(folder / "metrics.csv")) - 1
        checkpoints = sorted((folder / "checkpoints").glob("step-*"))
        if not checkpoints or int(checkpoints[-1].name[5:]) != done:
            raise Failed(f"stopped after step {done}, but the newest checkpoint is {checkpoints[-1:]}")
        self._mapolab("train", *settings)
        if read_json(folder / "manifest.json")["restarts"] != 1 or len(lines(folder / "metrics.csv")) != steps + 1:
            raise Failed("the second command did not continue the first")

    def generate(self) -> None:
        self._train("drawn")
        prompts = self.root / "prompts.txt"
        prompts.write_text("a red apple\na green frog\n")
        self._mapolab("evaluate", f"models={self.root / 'drawn'}", f"prompts={prompts}", "steps=4", "batch_size=2")
        if len(list(self.root.glob("drawn/evaluation/*/images/*.png"))) != 2:
            raise Failed("no pictures")

    def export(self) -> None:
        run = self.root / "drawn"
        if not run.exists():
            self._train("drawn")
        self._mapolab("export", f"run={run}", f"to={self.root / 'exported'}", "formats=[single_file]")

    def _sharded(self, strategy: str) -> None:
        if not self.gpus:
            raise Skipped("needs a GPU")
        settings = [f"strategy={strategy}", f"strategy.devices={self.gpus}", "trainer.precision=bf16-mixed"]
        self._train(strategy, *settings, "trainer.checkpoint_every=2")

    def _needs(self, package: str) -> None:
        if importlib.util.find_spec(package) is None:
            raise Skipped(f"{package} is not installed")

    def _settings(self, name: str, *more: str) -> list[str]:
        return [
            f"model={self.model}", *MODELS[self.model], "evaluation=pictures",
            f"trainer.max_steps={self.steps}", "trainer.progress=off",
            f"output_root={self.root}", f"output_dir={self.root / name}", "name=smoke", *more,
        ]  # fmt: skip

    def _train(self, name: str, *more: str) -> None:
        self._mapolab("train", *self._settings(name, *more))
        found = lines(self.root / name / "metrics.csv")
        if len(found) != self.steps + 1:
            raise Failed(f"{len(found) - 1} of {self.steps} steps in metrics.csv")

    def _mapolab(self, *arguments: str) -> None:
        process = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=TIME_LIMIT)
        if process.returncode:
            last = (process.stderr.strip() or process.stdout.strip()).splitlines()[-1:]
            raise Failed(f"exit code {process.returncode}: {' '.join(last)}")


class Skipped(Exception):
    """A path that this machine cannot take."""


class Failed(Exception):
    """A path that went wrong."""


PATHS = (
    Smoke.full, Smoke.lora, Smoke.on_line, Smoke.cache, Smoke.bf16, Smoke.pure_bf16, Smoke.eight_bit,
    Smoke.offloaded_reference, Smoke.compile, Smoke.ddp, Smoke.fsdp, Smoke.deepspeed, Smoke.deepspeed_offload,
    Smoke.resume, Smoke.generate, Smoke.export,
)  # fmt: skip


def command(*arguments: str) -> list[str]:
    """The real command line; of two settings of one group the later one is meant."""
    groups = {argument.partition("=")[0]: argument for argument in arguments[1:]}
    return [sys.executable, "-m", "mapolab", arguments[0], *groups.values()]


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    begun = time.monotonic()
    while not condition():
        if process.poll() is not None or time.monotonic() - begun > TIME_LIMIT:
            raise Failed("the run ended or hung before its second step")
        time.sleep(0.1)


def attempt(path: Callable[[Smoke], None], smoke: Smoke) -> Outcome:
    begun = time.monotonic()
    try:
        path(smoke)
    except Skipped as reason:
        return Outcome("skipped", note=str(reason))
    except (Failed, OSError, KeyError, subprocess.TimeoutExpired) as failure:
        return Outcome("FAIL", time.monotonic() - begun, str(failure))
    return Outcome("pass", time.monotonic() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="tiny_twin")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of each path")
    parser.add_argument("--only", nargs="*", help="names of paths")
    given = parser.parse_args()
    devices = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())) or "CPU"
    print(f"{given.model} on {devices}, torch {torch.__version__}\n")
    outcomes = {}
    with tempfile.TemporaryDirectory() as root:
        smoke = Smoke(given.model, given.steps, Path(root))
        for path in PATHS:
            if given.only and path.__name__ not in given.only:
                continue
            outcomes[path.__name__] = outcome = attempt(path, smoke)
            print(f"{path.__name__:20} {outcome.result:8} {outcome.seconds:6.1f} s  {outcome.note}", flush=True)
    failed = [name for name, outcome in outcomes.items() if outcome.result == "FAIL"]
    passed = sum(outcome.result == "pass" for outcome in outcomes.values())
    print(f"\n{passed} passed, {len(failed)} failed, {len(outcomes) - passed - len(failed)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
