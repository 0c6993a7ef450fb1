"""``make study``: six methods at three sizes of reference mismatch, the same search for each, five seeds.

1. Search: each method trains with six settings; the best on validation captions is taken (`chosen`).
2. Seeds: each method trains with its setting from five seeds, and is judged on the 96 test captions.
3. Mismatch: how far the base's pictures are from the preferred ones, by the features of a network.
4. Comparison: one for each mismatch, and docs/study.md from all three.

Everything resumes: what is finished is not done again, and a stopped run continues where it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from commands import mapolab
from mapolab import files
from mapolab.evaluation.scores_table import read_scores
from study_plan import MISMATCHES, OBJECTIVES, SEARCH_SEED, SEEDS, STUDY, Trial, final_folder, search_folder, trials
from study_report import Searched, write_report

VALIDATION = "builtin:emoji/prompts/validation.csv"
MOST_AT_ONCE = 60
"""Models in one command: a command line has a limited length."""


def main() -> None:
    searched = {mismatch: search(mismatch) for mismatch in MISMATCHES}
    for mismatch, found in searched.items():
        best = {one.trial.objective: one.trial for one in found if one.chosen}
        for trial in best.values():
            for seed in SEEDS:
                train(trial, mismatch, seed, final_folder(mismatch, trial, seed))
        evaluate(final_folders(mismatch, best.values()))
    for style, _ in MISMATCHES.values():
        mapolab("mismatch", "experiment=emoji_style", f"data.preferred_style={style}")
    before: list[Path] = []
    for mismatch, found in searched.items():
        folders = final_folders(mismatch, [one.trial for one in found if one.chosen])
        output = STUDY / mismatch / "comparison"
        beside = [f"beside={_list(before)}"] if before else []
        mapolab("compare", f"runs={_list(folders)}", f"output_dir={output}", *beside)
        before.append(output)
    write_report(searched)


def search(mismatch: str) -> list[Searched]:
    """Every trial of every method, trained and judged on the 32 validation captions."""
    tried = [trial for objective in OBJECTIVES for trial in trials(objective)]
    for trial in tried:
        train(trial, mismatch, SEARCH_SEED, search_folder(mismatch, trial))
    evaluate([search_folder(mismatch, trial) for trial in tried], f"prompts={VALIDATION}")
    measured = [(trial, kept(search_folder(mismatch, trial))) for trial in tried]
    best = {objective: chosen(objective, measured) for objective in OBJECTIVES}
    return [Searched(trial, value, trial == best[trial.objective]) for trial, value in measured]


def chosen(objective: str, measured: list[tuple[Trial, float]]) -> Trial:
    """The method's trial with most of the preferred style where concept and background are kept, picture by picture."""
    return max((pair for pair in measured if pair[0].objective == objective), key=lambda pair: pair[1])[0]


def kept(run: Path) -> float:
    """Mean of style x concept x background over the run's pictures, 0..1."""
    [scores] = (run / "evaluation").glob("*/scores.csv")
    table = read_scores(scores.parent)
    return float((table.values("style") * table.values("concept") * table.values("background")).mean())


def train(trial: Trial, mismatch: str, seed: int, folder: Path) -> None:
    manifest = folder / "manifest.json"
    if not manifest.is_file() or files.read_json(manifest)["status"] != "finished":
        mapolab("train", *trial.overrides(mismatch, seed), f"output_dir={folder}")


def evaluate(folders: list[Path], *overrides: str) -> None:
    missing = [folder for folder in folders if not list((folder / "evaluation").glob("*/scores.csv"))]
    for start in range(0, len(missing), MOST_AT_ONCE):
        mapolab("evaluate", f"models={_list(missing[start : start + MOST_AT_ONCE])}", *overrides)


def final_folders(mismatch: str, best: Iterable[Trial]) -> list[Path]:
    return [final_folder(mismatch, trial, seed) for trial in best for seed in SEEDS]


def _list(folders: Iterable[Path]) -> str:
    return f"[{','.join(map(str, folders))}]"


if __name__ == "__main__":
    main()
