"""Find the runs to compare, the evaluation that they have in common, and the base that they started from."""

from __future__ import annotations

import os
from pathlib import Path

from mapolab.errors import UserError
from mapolab.evaluation.options import DRAWN_BY
from mapolab.evaluation.saved import read_base, read_settings
from mapolab.evaluation.scores_table import OPTIONAL
from mapolab.paths import find_paths
from mapolab.report.methods import group_methods
from mapolab.report.runs import Method, Run, flatten
from mapolab.run_files import read_manifest
from mapolab.runs import final_weights
from mapolab.texts import say


def collect(
    runs: str | list[str], base: str | None = None, different_settings: bool = False
) -> tuple[Method, list[Method]]:
    """The base and the methods of the models that `runs` names: folders, patterns, or folders of runs.

    base: the folder of the model that the others are compared with; None: the one that the runs started from, or, where
    none is a run, the one model without weights of its own. different_settings: whether evaluations that drew
    differently may stand in one table. Raises UserError where there is nothing to compare: no run, one unfinished or
    not evaluated, evaluations of different settings, scorers or prompts, different bases, or none to be told.
    """
    folders = find_runs([runs] if isinstance(runs, str) else list(runs))
    chosen = find_runs([base])[0] if base else None
    manifests = {folder: read_manifest(folder) for folder in [*folders, *([chosen] if chosen else [])]}
    if chosen is None and len(folders) > 1 and not any((folder / "config.yaml").is_file() for folder in folders):
        chosen = _only_base(folders, manifests)
    compared = [folder for folder in folders if manifests[folder]["objective"]["name"] != "base"]
    compared = [folder for folder in compared if chosen is None or folder.resolve() != chosen.resolve()]
    if not compared:
        raise UserError(f"{runs} names no trained run: there is only the base model to look at. Name its runs too.")
    for folder in compared:
        _check_finished(folder, manifests[folder]["status"])
    everyone = [chosen, *compared] if chosen else compared
    evaluations = _newest_evaluations(everyone) if different_settings else _common_evaluation(everyone)
    reference = Run(chosen, evaluations[chosen], manifests[chosen]) if chosen else _base(compared, evaluations)
    members = [Run(folder, evaluations[folder], manifests[folder]) for folder in compared]
    _check_same_pictures([reference, *members])
    _check_same_scorers([reference, *members])
    return group_methods(reference, members)


def find_runs(patterns: list[str]) -> list[Path]:
    """The run folders that the patterns name, in order, each once; a pattern passes over folders that are no runs.

    Raises UserError for a name that holds no run.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        runs = [folder for path in find_paths(pattern) for folder in _runs_at(path)]
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
    if (folder / "config.yaml").is_file() and final_weights(folder) is None:
        say(f"The weights of {folder} are gone: what is compared are scores of when they were there.")


def _evaluations(folder: Path) -> dict[str, Path]:
    """Finished evaluations by hash, the newest last."""
    tables = sorted(folder.glob("evaluation/*/scores.csv"), key=lambda table: (table.stat().st_mtime_ns, table))
    return {table.parent.name: table.parent for table in tables}


def _common_evaluation(folders: list[Path]) -> dict[Path, Path]:
    """Each run's folder of the evaluation that all have; the newest of the first run's where there are several."""
    evaluations = _all_evaluations(folders)
    common = [name for name in evaluations[folders[0]] if all(name in own for own in evaluations.values())]
    if not common:
        raise UserError(_differing_settings(evaluations))
    return {folder: own[common[-1]] for folder, own in evaluations.items()}


def _newest_evaluations(folders: list[Path]) -> dict[Path, Path]:
    return {folder: list(own.values())[-1] for folder, own in _all_evaluations(folders).items()}


def _all_evaluations(folders: list[Path]) -> dict[Path, dict[str, Path]]:
    """Raises UserError where a run has none."""
    evaluations = {folder: _evaluations(folder) for folder in folders}
    missing = [folder for folder, own in evaluations.items() if not own]
    if missing:
        commands = ", ".join(f"`mapolab evaluate models={folder}`" for folder in missing)
        raise UserError(f"{len(missing)} of {len(folders)} runs are not evaluated yet. Give first: {commands}.")
    return evaluations


def _differing_settings(evaluations: dict[Path, dict[str, Path]]) -> str:
    """Names the settings in which the newest evaluations of the first run and of the first unlike one differ."""
    newest = {folder: list(own.values())[-1] for folder, own in evaluations.items()}
    (first, reference), *others = newest.items()
    other, unlike = next((item for item in others if item[1].name != reference.name), others[0])
    own, theirs = (flatten(read_settings(path)) for path in (reference, unlike))
    named = (*DRAWN_BY, "target_style")
    keys = [key for key in {**own, **theirs} if own.get(key) != theirs.get(key) and key.split(".")[0] in named]
    differing = "; ".join(f"{key}: {own.get(key)} and {theirs.get(key)}" for key in keys)
    return (
        f"The runs have no evaluation in common, so their scores cannot be compared. {first} and {other} differ in "
        f"{differing}. Give one `mapolab evaluate models=[...]` for all, or allow it: different_settings=true."
    )


def _only_base(folders: list[Path], manifests: dict[Path, dict]) -> Path:
    """Of models that are no runs, the one without weights of its own. Raises UserError where that is not one."""
    plain = [folder for folder in folders if not manifests[folder].get("weights")]
    if len(plain) != 1:
        names = ", ".join(map(str, plain or folders))
        raise UserError(
            f"None of these models was trained here, so nothing says which one the others are to be compared with: "
            f"{names}. Say it: base=<folder>."
        )
    return plain[0]


def _base(compared: list[Path], evaluations: dict[Path, Path]) -> Run:
    """The base model that all runs started from, by the links that `mapolab evaluate` left; other models have none."""
    bases: dict[Path, Path] = {}
    for folder in (folder for folder in compared if (folder / "config.yaml").is_file()):
        base = read_base(folder, evaluations[folder])
        if base is None:
            raise UserError(f"{folder} has no evaluated base. Give `mapolab evaluate models={folder}`, which adds it.")
        bases[base.resolve()] = folder
    if len(bases) > 1:
        started = "; ".join(f"{run} from {base.name}" for base, run in bases.items())
        raise UserError(
            f"The runs did not start from one base ({started}). Compare those of one base at a time, or name the model "
            "to compare with: base=<folder>."
        )
    folder = Path(os.path.relpath(next(iter(bases))))
    evaluation = _evaluations(folder)[evaluations[next(iter(bases.values()))].name]
    return Run(folder, evaluation, read_manifest(folder))


def _check_same_pictures(runs: list[Run]) -> None:
    """Every run must have drawn the same prompts with the same seeds, or nothing is paired."""
    reference = _drawn(runs[0])
    for run in runs[1:]:
        if _drawn(run) != reference:
            raise UserError(
                f"{run.evaluation / 'scores.csv'} does not hold the same prompts and seeds as {runs[0].evaluation}. "
                f"Remove that folder and give `mapolab evaluate models={run.folder}` again."
            )
        for name in OPTIONAL:
            _check_same_groups(runs[0], run, name)


def _check_same_groups(reference: Run, run: Run, name: str) -> None:
    """The comparison takes categories and clusters from its base: a run may have none, as from an earlier version, and
    no others."""
    pairs = [(own[name], theirs[name]) for own, theirs in zip(reference.pictures, run.pictures, strict=True)]
    differing = next(((own, theirs) for own, theirs in pairs if own != theirs), None)
    if differing is not None and any(theirs for _, theirs in pairs):
        own, theirs = (repr(one) if one else "none" for one in differing)
        raise UserError(
            f"{reference.folder} and {run.folder} were evaluated on the same prompts with another {name}: {own} and "
            f"{theirs} for one of them. Give one `mapolab evaluate models=[...] prompts=...` for all, which draws "
            "nothing again."
        )


def _check_same_scorers(runs: list[Run]) -> None:
    """A column must be one scorer: with other weights or another target it is another number."""
    for run in runs[1:]:
        theirs = {scorer["name"]: scorer.get("fingerprint") for scorer in run.settings["scorers"]}
        for scorer in runs[0].settings["scorers"]:
            if theirs.get(scorer["name"], scorer.get("fingerprint")) != scorer.get("fingerprint"):
                raise UserError(
                    f"{runs[0].folder} and {run.folder} were scored by different versions of {scorer['name']} (other "
                    "weights, or another target_style). Give one `mapolab evaluate models=[...] scorers=[...]` for all."
                )


def _drawn(run: Run) -> list[tuple[int, int, str]]:
    return [(row["index"], row["seed"], row["prompt"]) for row in run.pictures]
