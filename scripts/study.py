"""``make study``: the comparison with an equal search for every method, several seeds, and a control.

1. Learning rates: every method trains with every rate of one grid; one rule
   chooses on validation captions.
2. Seeds: every method trains with its rate from at least three seeds, and is judged on the 96 test captions.
3. Control: MaPO with swapped labels. The style must move the other way, or the judges measure something else.

Everything resumes: a stopped study continues where it was. The table goes into README.md and docs/study.md.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

from commands import mapolab, minutes_since
from mapolab import files

OBJECTIVES = ("sft", "mapo", "diffusion_dpo")
LEARNING_RATES = (1e-5, 3e-5, 1e-4, 3e-4)
SEEDS = (0, 1, 2)
SEARCH_SEED = 100
MAXIMUM_CONCEPT_LOSS = 0.1
STUDY = Path("outputs") / "emoji_style_study"
VALIDATION = "builtin:emoji/prompts/validation.csv"
MARKS = ("<!-- study table: written by `make study` -->", "<!-- end of the study table -->")


def train_and_evaluate(folder: Path, prompts: str | None, *overrides: str) -> Path:
    """Train into ``folder`` unless that is done, evaluate, and return the evaluation's folder."""
    mapolab("train", "experiment=emoji_style", *overrides, f"output_dir={folder}")
    mapolab("evaluate", f"models={folder}", *([f"prompts={prompts}"] if prompts else []))
    return newest_evaluation(folder)


def newest_evaluation(folder: Path) -> Path:
    return max((folder / "evaluation").iterdir(), key=lambda entry: (entry / "links.json").stat().st_mtime)


def means(evaluation: Path) -> dict[str, float]:
    """Mean of every scorer's column."""
    with open(evaluation / "scores.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("index", "prompt", "seed", "image")]
    return {name: sum(float(row[name]) for row in rows) / len(rows) for name in names}


def choose_rates() -> tuple[dict[str, float], list[dict]]:
    """The rate with the most preferred style among those that keep concept accuracy near the base's.

    Where no rate keeps it, the one that loses least of it.
    """
    table, chosen = [], {}
    for objective in OBJECTIVES:
        for rate in LEARNING_RATES:
            folder = STUDY / "search" / f"{objective}-lr{rate:g}"
            overrides = (f"objective={objective}", f"optimizer.lr={rate}", f"seed={SEARCH_SEED}")
            evaluation = train_and_evaluate(folder, VALIDATION, *overrides)
            base = evaluation.parent / files.read_json(evaluation / "links.json")["base"]
            scores, before = means(evaluation), means(_base_evaluation(folder, evaluation, base))
            table.append(
                {"objective": objective, "rate": rate, "loss": before["concept"] - scores["concept"], **scores}
            )
        rows = [row for row in table if row["objective"] == objective]
        kept = [row for row in rows if row["loss"] <= MAXIMUM_CONCEPT_LOSS]
        best = max(kept, key=lambda row: row["style"]) if kept else min(rows, key=lambda row: row["loss"])
        chosen[objective] = best["rate"]
    return chosen, table


def _base_evaluation(folder: Path, evaluation: Path, base: Path) -> Path:
    return folder.parent / base.name / "evaluation" / evaluation.name


def main() -> None:
    started = time.monotonic()
    rates, search = choose_rates()
    runs = []
    for objective in OBJECTIVES:
        for seed in SEEDS:
            folder = STUDY / "runs" / f"{objective}-seed{seed}"
            train_and_evaluate(
                folder, None, f"objective={objective}", f"optimizer.lr={rates[objective]}", f"seed={seed}"
            )
            runs.append(folder)
    control = STUDY / "runs" / "mapo-swapped-labels"
    overrides = ("objective=mapo", f"optimizer.lr={rates['mapo']}", "seed=0", "data.label_flip_probability=1.0")
    train_and_evaluate(control, None, *overrides)
    comparison = STUDY / "comparison"
    mapolab("compare", f"runs=[{','.join(map(str, [*runs, control]))}]", f"output_dir={comparison}")
    write_results(comparison, rates, search, minutes_since(started))


def write_results(comparison: Path, rates: dict[str, float], search: list[dict], duration: str) -> None:
    """docs/study.md with the search and the table; the table also between the marks in README.md."""
    summary = (comparison / "summary.md").read_text(encoding="utf-8")
    grid = [
        "| objective | learning rate | style | concept | background | pixel distance | chosen |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in search:
        figures = " | ".join(f"{row[name]:.3f}" for name in ("style", "concept", "background", "pixel_distance"))
        mark = "yes" if rates[row["objective"]] == row["rate"] else ""
        grid.append(f"| {row['objective']} | {row['rate']:g} | {figures} | {mark} |")
    text = "\n".join(
        [
            "# The study: SFT, MaPO and Diffusion-DPO on the tiny twin",
            "",
            f"Written by `make study`; this took {duration}, a first time takes about half an hour on two cores.",
            "Rates were chosen on 32 validation captions:",
            "most preferred style among those that lose at most "
            f"{MAXIMUM_CONCEPT_LOSS} of the base's concept accuracy.",
            "",
            "## Search",
            "",
            *grid,
            "",
            f"## Result on 96 test captions, training seeds {', '.join(map(str, SEEDS))}",
            "",
            summary,
        ]
    )
    files.write_text(Path("docs") / "study.md", text + "\n")
    scores = summary.split("\n### ")[0].strip()
    readme = Path("README.md").read_text(encoding="utf-8")
    before, rest = readme.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    files.write_text("README.md", f"{before}{MARKS[0]}\n\n{scores}\n\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
