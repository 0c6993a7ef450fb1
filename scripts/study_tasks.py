"""``make study-tasks``: every offline method on the tiny twin's five tasks, the same search for each, five seeds.

Two processes of one thread share the work, in this process's own code: a command for each run would load the libraries
a thousand times. What is finished is kept in docs/study/<task>.csv, one row a picture, and never done again, here or in
another checkout; outputs/study_tasks holds the runs themselves, which continue where they were.

    python scripts/study_tasks.py [task ...]            all, or these
    python scripts/study_tasks.py --report              only docs/study_tasks.md, from what is there
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import sys
import time
from dataclasses import replace

from commands import mapolab
from mapolab import files
from study_tasks_plan import LANES, METHODS, ROOT, SEEDS, STYLE, TASKS, Trial, search_trials
from study_tasks_scores import Scores


def main(arguments: list[str]) -> None:
    tasks = [name for name in arguments if not name.startswith("-")] or list(TASKS)
    if "--report" not in arguments:
        for task in tasks:
            prepare(task)
            run_all(task, [Trial(task, "base", 0.0, 0, search=True), Trial(task, "base", 0.0, 0, search=False)])
            run_all(task, [trial for method in METHODS for trial in search_trials(task, method)])
            run_all(task, final_trials(task))
    from study_tasks_report import write_report

    write_report()


def final_trials(task: str) -> list[Trial]:
    """Each method's best trial of the search, from every seed; seed by seed, so that a stop leaves whole columns."""
    scores = Scores(task)
    best = {method: scores.best(search_trials(task, method)) for method in METHODS}
    return [
        replace(trial, seed=seed, search=False) for seed in SEEDS for method, trial in best.items() if trial is not None
    ]


def prepare(task: str) -> None:
    """The pairs with soft labels that SmPO learns from, judged by the task's own scorer."""
    about, style = TASKS[task], f"target_style={STYLE}" if task == "style" else "target_style=null"
    pairs = f"data_path=builtin:emoji/pairs/{about.pairs}.parquet"
    judged = [f"ranked_by=[{about.judge}]", f"label_scale={about.scale:g}", style]
    mapolab("make-pairs", "recipe=smoothed", "labels=soft", f"output_dir={ROOT / task / 'smoothed'}", pairs, *judged)


def run_all(task: str, trials: list[Trial]) -> None:
    """Train and judge what is not kept yet, in `LANES` processes."""
    kept = Scores(task)
    missing = [trial for trial in trials if not kept.has(trial)]
    if not missing:
        return
    started = time.monotonic()
    print(f"{task}: {len(missing)} of {len(trials)} runs to do", flush=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(LANES, initializer=_quiet, initargs=(os.getpid(),)) as lanes:
        for number, trial in enumerate(lanes.imap_unordered(run, missing), start=1):
            Scores(task).keep(trial)
            print(f"  {number}/{len(missing)} {trial.name} {time.monotonic() - started:.0f} s", flush=True)


def run(trial: Trial) -> Trial:
    """Train, unless it is the base, and judge; leaves <folder>/scores.csv and <folder>/run.json."""
    from mapolab.config.compose import compose
    from mapolab.evaluation.evaluate import evaluate
    from mapolab.evaluation.scores_table import read_scores
    from mapolab.training.run import train

    if (trial.folder / "run.json").is_file():
        return trial
    config = compose("train", trial.overrides())
    drawn = {"output_root": str(ROOT), "base": False, "devices": 1} | config["evaluation"] | trial.drawing()
    if trial.method == "base":
        model = {"name": f"base-{trial.task}", "pretrained": config["model"]["pretrained"]}
        [folder] = evaluate(drawn | {"models": [model]})
        figures = {}
    else:
        train(config)
        [folder] = evaluate(drawn | {"models": [str(trial.folder)]})
        manifest = files.read_json(trial.folder / "manifest.json")
        figures = {key: manifest[key] for key in ("wall_seconds", "step_time_seconds", "peak_memory_gib")}
        shutil.rmtree(trial.folder / "checkpoints", ignore_errors=True)
    table = read_scores(folder)
    scores = {scorer: table.values(scorer).tolist() for scorer in table.scorers}
    rows = [
        picture | {scorer: column[number] for scorer, column in scores.items()}
        for number, picture in enumerate(table.pictures)
    ]
    pictures = [str(folder / row["image"]) for row in rows]
    files.write_json(trial.folder / "run.json", {"figures": figures, "rows": rows, "pictures": pictures})
    return trial


def _quiet(parent: int) -> None:
    """A lane: one thread, and what the runs print into a file."""
    import torch

    torch.set_num_threads(1)
    log = open(ROOT / f"lane-{os.getpid()}.log", "w")  # noqa: SIM115 (for the life of the process)
    contextlib.redirect_stdout(log).__enter__()
    contextlib.redirect_stderr(log).__enter__()


if __name__ == "__main__":
    ROOT.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    main(sys.argv[1:])
