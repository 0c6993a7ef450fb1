"""Starting, watching and stopping real runs."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE = 300  # seconds; only a hang takes as long


def arguments(config: dict[str, Any], run: Path, **changes: Any) -> list[str]:
    """`train ...` for a resolved config."""
    groups = ["data=parquet_pairs", f"objective={config['objective']['name']}", "evaluation=pictures"]
    values = {"name": config["name"], "seed": config["seed"], "output_root": config["output_root"]}
    for block in ("model", "data", "objective", "schedule", "strategy", "trainer"):
        values |= {f"{block}.{key}": value for key, value in config[block].items()}
    values |= {"optimizer.lr": config["optimizer"]["lr"], "output_dir": run} | changes
    return ["train", *groups, *(f"{key}={'null' if value is None else value}" for key, value in values.items())]


def start(config: dict[str, Any], run: Path, program: str | None = None, **changes: Any) -> subprocess.Popen[str]:
    """The real command; program: code that does something to it first and then calls `main`."""
    how = ["-m", "mapolab"]
    if program:
        script = run.with_suffix(".py")  # a file, since Lightning starts further ranks by its name
        script.write_text(program)
        how = [str(script)]
    command = [sys.executable, *how, *arguments(config, run, **changes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def steps_done(run: Path) -> int:
    file = run / "metrics.csv"
    return max(0, file.read_text().count("\n") - 1) if file.exists() else 0


def stop_after(process: subprocess.Popen[str], run: Path, steps: int, number: signal.Signals) -> tuple[int, str]:
    """Send a signal once the run has done so many steps; the exit code and what it said on stderr."""
    deadline = time.monotonic() + PATIENCE
    while steps_done(run) < steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


def weights(run: Path) -> bytes:
    return (run / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


def curves(run: Path) -> list[str]:
    """metrics.csv without the two columns that measure this machine."""
    return [line.rsplit(",", 2)[0] for line in (run / "metrics.csv").read_text().splitlines()]


def positions(run: Path) -> list[int]:
    """consumed_samples after each step."""
    with open(run / "metrics.csv", newline="") as file:
        return [int(row["consumed_samples"]) for row in csv.DictReader(file)]


def manifest(run: Path) -> dict[str, Any]:
    return json.loads((run / "manifest.json").read_text())
