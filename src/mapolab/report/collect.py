"""Find the runs to compare, the evaluation that they have in common, and the base that they started from."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from mapolab.errors import UserError
from mapolab.files import read_json
from mapolab.report.runs import Method, Run, flatten, group_runs


def collect(runs: str | list[str]) -> tuple[Method, list[Method]]:
    """The base and the methods of the runs that `runs` names: folders, patterns, or folders of runs.

    Raises UserError where there is nothing to compare: no run, one unfinished or not evaluated, evaluations of
    different settings or prompts, or different bases.
    """
    folders = find_runs([runs] if isinstance(runs, str) else list(runs))
    manifests = {folder: read_json(folder / "manifest.json") for folder in folders}
    trained = [folder for folder in folders if manifests[folder]["objective"]["name"] != "base"]
    if not trained:
        raise UserError(f"{runs} names no trained run: there is only the base model to look at. Name its runs too.")
    for folder in trained:
        _check_finished(folder, manifests[folder]["status"])
    evaluation = _common_evaluation(trained)
    base = _base(trained, evaluation)
    members = [Run(folder, folder / "evaluation" / evaluation, manifests[folder]) for folder in trained]
    _check_same_pictures([base, *members])
    return Method(base.label, (base,)), group_runs(members)


def find_runs(patterns: list[str]) -> list[Path]:
    """The run folders that the patterns name, in order, each once; a pattern passes over folders that are no runs.

    Raises UserError for a name that holds no run.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        runs = [folder for match in sorted(glob.glob(pattern, recursive=True)) for folder in _runs_at(Path(match))]
        if not runs:
            raise UserError(
                f"There is no run at {pattern}: no folder with a manifest.json. Name the folders that `mapolab train` "
                "printed, or a pattern such as runs='outputs/emoji_style/*'."
            )
        found |= {folder.resolve(): folder for folder in runs if folder.resolve() not in found}
    return list(found.values())


def common_parent(methods: list[Method]) -> Path:
    """The deepest folder that holds all runs."""
    folders = [run.folder.resolve().parent for method in methods for run in method.runs]
    return Path(os.path.relpath(os.path.commonpath(folders)))


def _runs_at(path: Path) -> list[Path]:
    """The path if it is a run, else the runs in it."""
    if (path / "manifest.json").is_file():
        return [path]
    return sorted(manifest.parent for manifest in path.glob("*/manifest.json"))


def _check_finished(folder: Path, status: str) -> None:
    if status != "finished":
        raise UserError(
            f"The run in {folder} is {status}, not finished. Give its `mapolab train` command again and then "
            f"`mapolab evaluate models={folder}`, or leave it out by naming the other runs: runs=[...]."
        )


def _evaluations(folder: Path) -> dict[str, Path]:
    """Finished evaluations by hash, the newest last."""
    tables = sorted(folder.glob("evaluation/*/scores.csv"), key=lambda table: (table.stat().st_mtime_ns, table))
    return {table.parent.name: table.parent for table in tables}


def _common_evaluation(folders: list[Path]) -> str:
    """The hash of the evaluation that all runs have; the newest of the first run's where there are several."""
    evaluations = {folder: _evaluations(folder) for folder in folders}
    missing = [folder for folder, own in evaluations.items() if not own]
    if missing:
        commands = ", ".join(f"`mapolab evaluate models={folder}`" for folder in missing)
        raise UserError(f"{len(missing)} of {len(folders)} runs are not evaluated yet. Give first: {commands}.")
    common = [name for name in evaluations[folders[0]] if all(name in own for own in evaluations.values())]
    if not common:
        raise UserError(_differing_settings(evaluations))
    return common[-1]


def _differing_settings(evaluations: dict[Path, dict[str, Path]]) -> str:
    """Names the settings in which the newest evaluations of the first run and of the first unlike one differ."""
    newest = {folder: list(own.values())[-1] for folder, own in evaluations.items()}
    (first, reference), *others = newest.items()
    other, unlike = next((item for item in others if item[1].name != reference.name), others[0])
    own, theirs = (flatten(read_json(path / "settings.json")) for path in (reference, unlike))
    keys = [key for key in {**own, **theirs} if own.get(key) != theirs.get(key)]
    differing = "; ".join(f"{key}: {own.get(key)} and {theirs.get(key)}" for key in keys)
    return (
        f"The runs have no evaluation in common, so their scores cannot be compared. {first} and {other} differ in "
        f"{differing}. Give `mapolab evaluate models=<folder>` for each with the same settings."
    )


def _base(trained: list[Path], evaluation: str) -> Run:
    """The base model that all runs started from, by the link that `mapolab evaluate` left."""
    bases: dict[Path, Path] = {}
    for folder in trained:
        links = folder / "evaluation" / evaluation / "links.json"
        base = folder / read_json(links)["base"] if links.is_file() else None
        if base is None or not (base / "evaluation" / evaluation / "scores.csv").is_file():
            raise UserError(f"{folder} has no evaluated base. Give `mapolab evaluate models={folder}`, which adds it.")
        bases[base.resolve()] = folder
    if len(bases) > 1:
        started = "; ".join(f"{run} from {base.name}" for base, run in bases.items())
        raise UserError(f"The runs did not start from one base ({started}). Compare those of one base at a time.")
    folder = Path(os.path.relpath(next(iter(bases))))
    return Run(folder, folder / "evaluation" / evaluation, read_json(folder / "manifest.json"))


def _check_same_pictures(runs: list[Run]) -> None:
    """Every run must have drawn the same prompts with the same seeds, or nothing is paired."""
    reference = _drawn(runs[0])
    for run in runs[1:]:
        if _drawn(run) != reference:
            raise UserError(
                f"{run.evaluation / 'scores.csv'} does not hold the same prompts and seeds as {runs[0].evaluation}. "
                f"Remove that folder and give `mapolab evaluate models={run.folder}` again."
            )


def _drawn(run: Run) -> list[tuple[str, str, str]]:
    return [(row["index"], row["seed"], row["prompt"]) for row in run.pictures]
