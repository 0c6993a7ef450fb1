"""The files of an evaluation's folder, as whoever reads them later takes them.

The folder may be a stranger's. A path in these files leads to nothing but what an evaluation of ours is made of.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Required, TypeVar

from typing_extensions import TypedDict

from mapolab.errors import UserError
from mapolab.reading import read_object
from mapolab.run_files import differs, read_manifest


class ScorerAbout(TypedDict, total=False):
    """A scorer's entry in an evaluation's settings."""

    name: Required[str]
    kind: Required[str]
    higher_is_better: Required[bool]
    description: Required[str]
    minimum: float | None
    maximum: float | None
    source: str | None
    fingerprint: str


class Settings(TypedDict, total=False):
    """settings.json of an evaluation."""

    scorers: Required[list[ScorerAbout]]
    prompt_count: Required[int]
    seed: Required[int]
    steps: Required[int]
    guidance_scale: Required[float]
    images_per_prompt: int
    prompts: str
    prompts_hash: str
    limit: int | None
    cut_prompts: dict[str, int]
    model: str
    target_style: str | None
    checksums: dict[str, str]


class ScorerName(TypedDict):
    name: str


class TableSettings(TypedDict, total=False):
    """What of an evaluation's settings says how many rows its table has, and which columns."""

    scorers: Required[list[ScorerName]]
    prompt_count: int
    images_per_prompt: int
    checksums: dict[str, str]


AnySettings = TypeVar("AnySettings")


class Links(TypedDict):
    """links.json of an evaluation: the folder of the run's base, from the run's own."""

    base: str


def read_settings(evaluation: Path, kind: type[AnySettings] = Settings) -> AnySettings:
    """settings.json of an evaluation. kind: what of it is needed. Raises UserError for one that is not as it was
    written."""
    file, fix = evaluation / "settings.json", evaluate_again(evaluation)
    settings = read_object(file, kind, fix)
    if differs(settings, "settings"):
        raise UserError(f"{file} was changed since it was written: it does not say what was measured. {fix}")
    names = [scorer["name"] for scorer in settings["scorers"]]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{file} has two scorers called {twice}. {fix}")
    return settings


def read_base(run: Path, evaluation: Path) -> Path | None:
    """The folder of the base of this run, which was evaluated alike; None where the evaluation names none.

    Raises UserError for a link to anything but an evaluated base.
    """
    file, fix = evaluation / "links.json", evaluate_again(evaluation)
    if not file.exists():
        return None
    named = read_object(file, Links, fix)["base"]
    base = run / named
    if "\0" in named or PurePosixPath(named).is_absolute():
        raise UserError(f"{file} names the base {named!r:.80}, which is no path from the run's folder. {fix}")
    if not (base / "evaluation" / evaluation.name / "scores.csv").is_file():
        return None
    if (base / "manifest.json").exists() and read_manifest(base)["objective"]["name"] != "base":
        raise UserError(f"{file} names {base}, which is no base model. {fix}")
    return base


def picture_file(evaluation: Path, image: str) -> Path:
    """Where the picture `image` of scores.csv lies. Raises UserError for one that is not in the evaluation's own folder
    images, or is missing."""
    file, fix = evaluation / image, evaluate_again(evaluation)
    parts = PurePosixPath(image).parts
    if len(parts) != 2 or parts[0] != "images" or "\0" in image or "\\" in image:
        raise UserError(
            f"{evaluation / 'scores.csv'} names the picture {image!r:.80}, which is not in {evaluation / 'images'}. "
            f"{fix}"
        )
    if not file.is_file():
        raise UserError(f"The picture {file} is missing. {fix}")
    if file.resolve().parent != evaluation.resolve() / "images":
        raise UserError(f"The picture {file} is a link that leads out of {evaluation / 'images'}. {fix}")
    return file


def evaluate_again(evaluation: Path) -> str:
    """What to do about an evaluation that is not whole."""
    return (
        f"Give the `mapolab evaluate` command of {evaluation.parent.parent} again: it writes the table anew, and draws "
        "and scores nothing that is kept."
    )
