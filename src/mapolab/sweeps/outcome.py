"""How a sweep ended: its exit code, and the number that a search looks at."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapolab.errors import RunError, UserError
from mapolab.evaluation.scores_table import read_scores
from mapolab.run_files import read_curves, read_manifest
from mapolab.runs import RunFolder
from mapolab.sweeps.folder import Job, SweepFolder


def failure(folder: SweepFolder, jobs: Sequence[Job], codes: dict[int, int]) -> str | None:
    """One paragraph on the jobs that did not finish; None if all did."""
    failed = [job for job in jobs if codes.get(job.number)]
    if not failed:
        return None
    lines = [f"  job {job.number}: {folder.record(job.number).get('message', 'no message')}" for job in failed]
    return (
        f"{len(failed)} of {len(jobs)} jobs did not finish. The same command runs only what is missing; "
        f"`{folder.status_command}` shows each job and its own command.\n" + "\n".join(lines)
    )


def metric(run: Path, name: str) -> float:
    """The figure of a finished run that a search looks at, by its name as in check_metric. Raises RunError."""
    source, _, column = name.partition("/")
    if source == "evaluation":
        links = list((run / "evaluation").glob("*/links.json"))
        newest = max(links, key=lambda file: file.stat().st_mtime, default=None)
        columns = _scores(newest.parent) if newest else {}
    else:
        columns = {key: values[_last(source, len(values)) :] for key, values in _curves(run, source).items()}
    try:
        # A product is taken picture by picture: style*concept is high only for pictures that have both.
        factors = [columns[key] for key in column.split("*")]
        value = sum(math.prod(values) for values in zip(*factors, strict=True)) / len(factors[0])
    except (KeyError, ValueError, ZeroDivisionError):
        raise RunError(f"The run in {run} has no {name}, which the search needs.") from None
    if not math.isfinite(value):
        raise RunError(f"{name} of the run in {run} is {value}.")
    return value


def check_metric(name: str) -> None:
    """Raise UserError unless it is evaluation/<scorer>, validation/<column> or metrics/<column>."""
    source, _, column = name.partition("/")
    if source not in ("evaluation", "validation", "metrics") or not column:
        raise UserError(
            f"hydra.sweeper.metric is {name}. Name a figure of the finished run: evaluation/style (the mean of a "
            "scorer, or style*concept of a product), validation/loss (the last row of validation.csv), or metrics/loss "
            "(the mean of the last tenth of metrics.csv)."
        )


def is_finished(job: Job, config: dict[str, Any]) -> bool:
    """Whether nothing is left to do for a job: its run is finished, and evaluated where that was asked for."""
    evaluated = not config["evaluation"]["after_training"] or any(job.run.glob("evaluation/*/links.json"))
    return RunFolder(job.run).finished and evaluated


def needs_no_start(job: Job, config: dict[str, Any]) -> bool:
    """Whether it is known without starting the job that it is finished: in a named output_dir the run may be another,
    which its start would refuse."""
    return config["output_dir"] is None and is_finished(job, config)


def _scores(evaluation: Path) -> dict[str, list[float]]:
    """Each scorer's column. Raises RunError for a table that cannot be used."""
    try:
        table = read_scores(evaluation)
        return {scorer: table.values(scorer).tolist() for scorer in table.scorers}
    except UserError as error:
        raise RunError(str(error)) from None


def _last(source: str, rows: int) -> int:
    """Where what counts begins: the last row of validation.csv, the last tenth of metrics.csv."""
    return -1 if source == "validation" else -max(1, rows // 10)


def _curves(run: Path, source: str) -> dict[str, list[float]]:
    """The columns of a run's table. Raises RunError for one that cannot be used."""
    try:
        return read_curves(run, f"{source}.csv", read_manifest(run))
    except UserError as error:
        raise RunError(str(error)) from None
