"""The files of a run's folder, as whoever reads them later takes them.

The folder may be a stranger's. A config is plain data: a `${...}` in it is text.
"""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Required, get_args, get_type_hints

from typing_extensions import TypedDict

from mapolab.config.model_checks import TOKEN
from mapolab.config.ranges import check_values
from mapolab.config.rollout import reward_label
from mapolab.errors import UserError
from mapolab.files import sha256, short_hash
from mapolab.reading import read_numbers, read_object, read_yaml
from mapolab.texts import say

RUN_FIX = (
    "Fetch or restore the run's folder; one of your own begins anew, with the same command, where it is moved away."
)
Status = Literal["running", "finished", "failed", "interrupted", "preempted"]


class HasStatus(TypedDict):
    status: Status


class Objective(TypedDict, total=False):
    """An objective's settings beside its name."""

    name: Required[str]


class Manifest(TypedDict, total=False):
    """manifest.json of a run, or of another model that was evaluated."""

    status: Required[Status]
    objective: Required[Objective]
    label: Required[str]
    seed: Required[int | None]
    name: str | None
    command: str
    started: str
    finished: str | None
    failure: str | None
    restarts: int
    steps: int
    wall_seconds: float
    samples_per_second: float
    step_time_seconds: float
    peak_memory_gib: float
    versions: dict[str, str | None]
    commit: str | None
    hardware: dict[str, str | int | None]
    model_files: dict[str, str] | None
    data_fingerprint: str | None
    notes: list[str]
    weights: str | None
    checksums: dict[str, str]


class Requeue(TypedDict):
    """A time that Slurm was asked to run the job again. step: or how far the evaluation had come."""

    time: str
    job: str
    step: int | str
    reason: str


class Tracker(TypedDict):
    id: str


def read_manifest(folder: Path) -> Manifest:
    """Raises UserError for one that is missing or not whole; says so where it was changed since it was written."""
    file = folder / "manifest.json"
    manifest = read_object(file, Manifest, RUN_FIX)
    if differs(manifest, "manifest"):
        _say(f"{file} was changed since mapolab wrote it; what it says now is what is read.")
    return manifest


def read_status(folder: Path) -> Status:
    """How a run stands, by its manifest, whatever else that lacks."""
    return read_object(folder / "manifest.json", HasStatus, RUN_FIX)["status"]


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml of a run, each key of the type that `train` gives it; a run of an earlier version lacks some.

    Raises UserError for any other file; says so where it is not as it was when the run was finished.
    """
    file = folder / "config.yaml"
    config = read_yaml(file, saved_train(), RUN_FIX)
    for block, *keys in NEEDED:
        if missing := next((key for key in keys if key not in config.get(block, {})), None):
            raise UserError(f"{file} has no {block}.{missing}. {RUN_FIX}")
    token = ((config.get("model") or {}).get("lora") or {}).get("learned_token")
    if token is not None and not re.fullmatch(TOKEN, token):
        raise UserError(f"{file} has {token!r:.60} for model.lora.learned_token, which is no name of one. {RUN_FIX}")
    for block in ("model", "data", "evaluation"):
        for key, value in (config.get(block) or {}).items():
            names = value.split("/") if isinstance(value, str) and key != "negative_prompt" else []
            if any(len(name.encode()) > LONGEST_NAME for name in names):
                raise UserError(f"{file} has {value!r:.60} for {block}.{key}, which is too long for a name. {RUN_FIX}")
    flat = {f"{block}.{key}": value for block in BLOCKS for key, value in (config.get(block) or {}).items()}
    flat = {key: value for key, value in flat.items() if key.startswith(CHECKED)}
    try:
        check_values(flat)
        for entry in (config.get("rollout") or {}).get("rewards", []):
            reward_label(entry)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (TypeError, ValueError, AttributeError):
        raise UserError(f"{file} has something else than rewards under rollout.rewards. {RUN_FIX}") from None
    if (folder / "manifest.json").exists() and _is_changed(file, read_manifest(folder)):
        _say(f"{file} was changed since the run was finished; what it says now is what is read.")
    return config


LONGEST_NAME = 255  # bytes that a file system takes
# What every version has written, and every reader of a run's config takes for granted.
NEEDED = (
    ("objective", "name"),
    ("data", "batch_size"),
    ("trainer", "gradient_accumulation"),
    ("strategy", "devices", "num_nodes"),
)
BLOCKS = ("model", "diffusion", "evaluation", "data", "trainer")
# The values that later commands use, in the ranges that `train` holds them to.
CHECKED = (
    "model.", "diffusion.", "evaluation.", "data.batch_size", "data.resolution", "trainer.gradient_accumulation",
    "trainer.max_steps",
)  # fmt: skip
# The types of what the schema leaves open, where a reader depends on it.
OPEN: dict[str, Any] = {
    "objective": Objective,
    "devices": int | Literal["auto"] | list[int],
    "num_nodes": int,
    "scorers": list[str | dict[str, Any]] | None,
    "rewards": list[str | dict[str, Any]],
}


def read_curves(folder: Path, name: str, manifest: Manifest) -> dict[str, list[float]]:
    """The columns of metrics.csv or validation.csv of a finished run, as `reading.read_numbers`; none where it is not
    there and need not be.

    Raises UserError for a file that is not as it was when the run was finished; of a run of an earlier version, which
    did not note that, it says where steps lack.
    """
    file = folder / name
    if not file.exists() and name not in manifest.get("checksums", {}):
        return {}
    columns = read_numbers(file, RUN_FIX)
    if _is_changed(file, manifest):
        raise UserError(f"{file} was changed since the run was finished: its figures are not the run's. {RUN_FIX}")
    steps, counted = columns.get("step", []), manifest.get("steps")
    if name == "metrics.csv" and counted is not None and len(steps) != counted:
        _say(f"{file} has {len(steps)} steps, and the run had {counted}: the curves are of these alone.")
    return columns


def checksums(folder: Path) -> dict[str, str]:
    """Of those files of a finished run that readers take figures from, for its manifest."""
    names = ("config.yaml", "metrics.csv", "validation.csv")
    return {name: sha256(folder / name) for name in names if (folder / name).is_file()}


def _is_changed(file: Path, manifest: Manifest) -> bool:
    """Whether a file of a finished run is not as it was then; an earlier version did not note it."""
    noted = manifest.get("checksums", {}).get(file.name)
    return manifest["status"] == "finished" and noted is not None and sha256(file) != noted


@lru_cache
def _say(text: str) -> None:
    """Once. A config may have been changed for a reason, such as a model that lies elsewhere now."""
    say(text, to_errors=True)


def with_checksum(content: dict[str, Any], name: str, **others: str) -> dict[str, Any]:
    """`content` with `checksums`: its own under `name`, and those of other files."""
    rest = {key: value for key, value in content.items() if key != "checksums"}
    noted = content.get("checksums", {}) | others
    noted.pop(name, None)
    return rest | {"checksums": noted | {name: short_hash([rest, noted])}}


def differs(content: Any, name: str) -> bool:
    """Whether `content` is not what `with_checksum` was given; an earlier version noted nothing."""
    noted = content.get("checksums", {}).get(name)
    return noted is not None and with_checksum(content, name)["checksums"][name] != noted


@lru_cache
def saved_train() -> Any:
    """The type of a saved config: the schema of `train`, of which any key may lack."""
    from mapolab.config.schema import Train

    hints = {**get_type_hints(_partial(Train)), "from_environment": dict[str, str]}
    return TypedDict("SavedTrain", hints, total=False)


def _partial(schema: type) -> Any:
    """A dataclass as a TypedDict all of whose keys may lack."""
    hints = {key: OPEN.get(key) or _partial_of(kind) for key, kind in get_type_hints(schema).items()}
    if schema.__name__ == "Evaluation":  # what is null there, or lacks, is as usual for SDXL
        hints = {key: kind | None for key, kind in hints.items()}
    return TypedDict(schema.__name__, hints, total=False)


def _partial_of(kind: Any) -> Any:
    if is_dataclass(kind):
        return _partial(kind)
    block = next((one for one in get_args(kind) if is_dataclass(one)), None)
    return kind if block is None else _partial(block) | None
