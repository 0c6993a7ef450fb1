"""The scorers that a config may name, and how they are built.

A config is data that people copy from each other, so a name is looked up here and in the entry points of installed
packages (group `mapolab.scorers`); nothing else that a config says is imported.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from inspect import Parameter
from types import NoneType
from typing import Any

from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError
from mapolab.evaluation.scorers.fingerprint import note_settings, signature
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scores_table import FILE, OWN
from mapolab.texts import brief, odd_character, one_line

HERE = "mapolab.evaluation.scorers"
GROUP = "mapolab.scorers"
VARIADIC = Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD
KEY = "evaluation.scorers"  # where a config names them, unless its caller says another
TYPES = {"str": (str,), "str | None": (str, NoneType), "dict | None": (dict, NoneType)}
# name -> module, class, and the settings that the name stands for
SCORERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "style": (f"{HERE}.emoji", "StyleScorer", {}),
    "concept": (f"{HERE}.emoji", "ConceptScorer", {}),
    "background": (f"{HERE}.emoji", "BackgroundScorer", {}),
    "pixel_distance": (f"{HERE}.emoji", "PixelDistanceScorer", {}),
    "appeal": (f"{HERE}.emoji", "AppealScorer", {}),
    "avoids": (f"{HERE}.emoji", "AvoidsScorer", {}),
    "pickscore": (f"{HERE}.pickscore", "PickScore", {}),
    "hps_v2.1": (f"{HERE}.hps", "HPS", {"version": "v2.1"}),
    "hps_v2.0": (f"{HERE}.hps", "HPS", {"version": "v2.0"}),
    "aesthetic": (f"{HERE}.aesthetic", "Aesthetic", {}),
    "clip_score": (f"{HERE}.clip_score", "CLIPScore", {}),
    "image_reward": (f"{HERE}.image_reward", "ImageReward", {}),
    "nsfw": (f"{HERE}.nsfw", "NSFW", {}),
    "subject": (f"{HERE}.subject", "SubjectScorer", {}),
    "jpeg_size": (f"{HERE}.jpeg_size", "JPEGSize", {}),
}

Named = str | dict[str, Any]


def build_scorers(
    named: list[Named], target_style: str | None = None, device: str = "cpu", key: str = KEY
) -> list[Scorer]:
    """The scorers that the config lists under `key`, in order: a name, or a mapping of `_target_` and settings.

    Raises UserError for a name that does not exist, a setting that the scorer does not have, weights that are missing,
    two scorers of one name, and a name that cannot be a column.
    """
    scorers = [_build(entry, {"target_style": target_style, "device": device}, key) for entry in named]
    names = [scorer.name for scorer in scorers]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{key} has {twice} twice, which would be one column. Leave one out.")
    for name in names:
        _check_column(name, key)
    return scorers


def _check_column(name: Any, key: str) -> None:
    """A scorer's name is its column in scores.csv and the beginning of others, as in `style/mean`; a search multiplies
    `style*concept`."""
    if name in OWN:
        raise UserError(
            f"{key} has a scorer called {name}, which is a column of {FILE} itself. Give it another name, in its class "
            "or by its setting `name`."
        )
    if not isinstance(name, str) or not name or name != one_line(name) or odd_character(name) or set(name) & set("/*"):
        raise UserError(
            f"{key} has a scorer called {name!r}, which cannot name a column. Give it a name on one line, without '/' "
            "and '*'."
        )


def check_scorers(evaluation: dict[str, Any]) -> None:
    """Raise UserError if the scorers of this block cannot be loaded: a run that ends with them should not begin."""
    build_scorers(evaluation["scorers"] or [], evaluation["target_style"])


def check_names(named: list[Named], key: str = KEY) -> None:
    """Raise UserError for a name under `key` that does not exist; imports nothing."""
    for entry in named:
        _split(entry, key)


def _split(entry: Named, key: str) -> tuple[str, dict[str, Any]]:
    settings = {"_target_": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, dict) else {}
    name = settings.pop("_target_", None)
    if name is None:
        raise UserError(f"{key} has {brief(entry)}. Give a name, or with settings {{_target_: clip_score, ...}}.")
    if name not in known_names():
        hint = did_you_mean(str(name), known_names())
        raise UserError(
            f"{key} names {name}.{hint} There are {', '.join(known_names())}. A scorer of your own is an "
            f"entry point of the group {GROUP}: docs/evaluation.md shows one in ten lines."
        )
    return name, settings


def known_names() -> list[str]:
    """Ours, then those of installed packages."""
    return [*SCORERS, *(point.name for point in entry_points(group=GROUP) if point.name not in SCORERS)]


def _build(entry: Named, surroundings: dict[str, Any], key: str) -> Scorer:
    name, settings = _split(entry, key)
    kind, preset = _class(name)
    parameters = signature(kind).parameters.values()
    known = {one.name: one for one in parameters if one.name not in preset and one.kind not in VARIADIC}
    told = f"Its settings: {', '.join(known) or 'none'}."
    anything = any(one.kind is one.VAR_KEYWORD for one in parameters)
    if unknown := [setting for setting in settings if setting not in known and not anything]:
        raise UserError(f"The scorer {name} has no setting {unknown[0]}.{did_you_mean(str(unknown[0]), known)} {told}")
    given = {setting: value for setting, value in surroundings.items() if setting in known} | preset | settings
    required = [setting for setting, one in known.items() if one.default is one.empty]
    if missing := [setting for setting in required if setting not in given]:
        raise UserError(f"The scorer {name} needs its setting {missing[0]}: {{_target_: {name}, {missing[0]}: ...}}.")
    for setting, value in settings.items():
        # Annotations are texts here; those of a scorer of another package may be anything, and are its own to check.
        allowed = TYPES.get(known[setting].annotation) if setting in known else None
        if allowed and not isinstance(value, allowed):
            raise UserError(
                f"The scorer {name} was given {setting}={brief(repr(value))}, which is no "
                f"{allowed[0].__name__}: {{_target_: {name}, {setting}: ...}}."
            )
    scorer = kind(**given)
    if not isinstance(scorer, Scorer):
        raise UserError(f"The entry point {name} is no mapolab.Scorer. Derive its class from it.")
    note_settings(scorer, kind, given=given)  # of a function that makes the scorer, too
    return scorer


def _class(name: str) -> tuple[type[Scorer], dict[str, Any]]:
    if name not in SCORERS:
        return next(iter(entry_points(group=GROUP, name=name))).load(), {}
    module, kind, preset = SCORERS[name]
    try:
        return getattr(import_module(module), kind), preset
    except ModuleNotFoundError as error:
        raise UserError(
            f"The scorer {name} needs the package {error.name}. Install it: pip install 'mapolab[evaluation]'."
        ) from error
