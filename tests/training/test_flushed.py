"""What a run has written is on the disk before its name says so: the system calls of a real run, in their order."""

import re
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from processes import arguments

CALLS = "openat,mkdir,mkdirat,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,renameat,renameat2"


def trace(config: dict[str, Any], run: Path, log: Path) -> list[tuple[str, str, str]]:
    """(call, path, new path or nothing) of what a `train` command did in `run`, in order."""
    if shutil.which("strace") is None:
        pytest.skip("STRACE IS NOT INSTALLED, so nothing saw whether weights and metrics are flushed")
    watch = ["strace", "-f", "-y", "-s", "0", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", str(log)]
    command = [*watch, sys.executable, "-m", "mapolab", *arguments(config, run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "PTRACE" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"STRACE MAY NOT WATCH HERE, so nothing saw what is flushed: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    calls, begun = [], {}
    for line in log.read_text().splitlines():
        process, text = line.split(maxsplit=1)
        if text.endswith("<unfinished ...>"):
            begun[process] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
            text = begun.pop(process, "") + resumed[1]
        if " = -1 " not in text and (call := _call(text, run)):
            calls.append(call)
    return calls


def _call(text: str, run: Path) -> tuple[str, str, str] | None:
    name = text.split("(")[0]
    # A path stands in quotes, an open file's after its number: 3</path>; the working folder's as AT_FDCWD</path>.
    paths = [quoted or opened for quoted, opened in re.findall(r'"([^"]*)"|\b\d+<([^>]*)>', text)]
    if name == "openat" and not re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC)", text):
        return None
    if not paths or not paths[0].startswith(str(run)):
        return None
    return name, paths[0], paths[1] if name.startswith("rename") else ""


def test_what_is_named_is_on_the_disk(train_config, tmp_path):
    """When a checkpoint, the weights or a file get their names, all in them is flushed, and so are the names, just
    after; and no checkpoint comes before the rows of its steps."""
    run, name = tmp_path / "run", f"{tmp_path}/run"
    train_config["trainer"] |= {"max_steps": 2, "checkpoint_every": 1, "gradient_accumulation": 1, "ema_decay": 0.9}
    train_config["schedule"]["warmup_steps"] = 0
    calls = trace(train_config, run, tmp_path / "calls.txt")

    dirty: set[str] = set()  # files that changed and folders that got names since their last fsync
    known: set[str] = set()
    seen: list[str] = []
    for position, (call, path, new) in enumerate(calls):
        if call.startswith("f") and "sync" in call:
            dirty.discard(path)
            continue
        made = new or path
        if made not in known:
            dirty |= {str(Path(made).parent)} if made != name else set()
        known.add(made)
        if not call.startswith("rename"):
            dirty |= set() if call.startswith("mkdir") else {path}
            continue
        known = {other for other in known if other != path}
        if Path(new).name.startswith("."):  # what goes away
            continue
        inside = {other for other in dirty if other == path or other.startswith(f"{path}/")}
        dirty -= inside
        if path.endswith(".tmp"):  # ours
            assert not inside, f"{new} got its name before {inside} were flushed"
            seen.append(new.removeprefix(f"{name}/"))
            if ".tmp/" in new:
                continue
            flushed = takewhile(lambda other: other[0] in ("openat", "fsync"), calls[position + 1 :])
            left = dirty & {str(folder) for folder in Path(new).parents} - {other for _, other, _ in flushed}
            assert not left, f"{new} got its name, which was not flushed in {left}"
        else:  # safetensors', whose content is not flushed yet
            dirty.add(new)
        assert "/checkpoints/step" not in new or ".tmp/" in new or f"{name}/metrics.csv" not in dirty, f"{new}: no rows"
    assert {"checkpoints/step-00000001", "checkpoints/step-00000002", "unet", "manifest.json"} <= set(seen)
    assert "metrics.csv" in {path.removeprefix(f"{name}/") for _, path, _ in calls}
