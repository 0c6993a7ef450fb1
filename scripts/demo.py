"""``make demo``: SFT, MaPO and Diffusion-DPO from one base on one set of pairs, one seed, and their comparison."""

from __future__ import annotations

import time
from pathlib import Path

from commands import mapolab, minutes_since
from mapolab.config.compose import compose
from mapolab.config.identity import run_folder

OBJECTIVES = ("sft", "mapo", "diffusion_dpo")
COMPARISON = Path("outputs") / "emoji_style" / "demo"


def main() -> None:
    started = time.monotonic()
    mapolab("train", "-m", "experiment=emoji_style", f"objective={','.join(OBJECTIVES)}", "seed=0")
    runs = [
        run_folder(compose("train", ["experiment=emoji_style", f"objective={name}", "seed=0"])) for name in OBJECTIVES
    ]
    for run in runs:
        mapolab("evaluate", f"models={run}")
    mapolab("compare", f"runs=[{','.join(map(str, runs))}]", f"output_dir={COMPARISON}")
    print(f"\nDone in {minutes_since(started)}. Open {(COMPARISON / 'report' / 'index.html').resolve()}")


if __name__ == "__main__":
    main()
