"""What an evaluated model is called: in tables, and as a folder."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mapolab.errors import UserError
from mapolab.paths import BUILTIN

if TYPE_CHECKING:
    from mapolab.evaluation.models import EvaluatedModel

BASE = "base"  # the model that runs started from
LONGEST = 100  # characters; a longer name fills every plot
FIX = "Give it another name: models=[{name: <a name>, ...}]."
# They turn the text around them: the rest of a table's row would be read backwards.
TURNING = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def given_name(name: Any) -> str:
    """The label of a model that is called `name`, without spaces. Raises UserError for what cannot be one."""
    if not isinstance(name, str | int | float):
        raise UserError(f"A model of models= has the name {name!r}. Give a text: name: mine.")
    label = _checked(str(name))
    if label.lower() == BASE:
        raise UserError(f"A model cannot be called {label}: so is the one that runs start from. {FIX}")
    return label


def name_of(place: str) -> str:
    """The label of a model that is called after its path (the last part), or after its name on the hub.

    Raises UserError for what cannot be one.
    """
    plain = str(place).removeprefix(BUILTIN)
    path = Path(plain).expanduser()
    if plain.startswith(("/", ".", "~")) or path.exists():
        path = Path(os.path.abspath(path))  # as it is called here, wherever links lead
        last, above = path.name.removesuffix(".safetensors") or path.name, path.parent.name
        plain = f"{above}-{last}" if last.lower() == BASE and above else last
    return _checked(plain.removesuffix(".safetensors") or plain)


def _checked(name: str) -> str:
    hidden = [sign for sign in name if sign in TURNING or unicodedata.category(sign) in ("Cc", "Cs", "Cn")]
    if wrong := [sign for sign in hidden if not sign.isspace()]:
        raise UserError(f"The model's name {name!r} holds {wrong[0]!r}, which cannot be shown. {FIX}")
    label = "-".join(name.split())
    if not label:
        raise UserError(f"A model has the blank name {name!r}. {FIX}")
    if len(label) > LONGEST:
        raise UserError(f"The model's name {label[:40]}... has {len(label)} characters, more than {LONGEST}. {FIX}")
    return label


def folder_name(label: str, fingerprint: str) -> str:
    """`<label>-<fingerprint>`, with no sign that a file system or a shell minds."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', label)[:LONGEST]}-{fingerprint[:12]}"


def check_apart(models: Sequence[EvaluatedModel]) -> None:
    """Raise UserError for two models of one name, and for one model of two names that would share a folder."""
    for position, model in enumerate(models):
        for other in models[:position]:
            same = model.folder.resolve() == other.folder.resolve()
            if same and model.label != other.label:
                raise UserError(
                    f"models= names one model twice, as {other.label} and {model.label}. Leave one of them out."
                )
            # Runs of one label are told apart by their settings and seeds.
            if not same and model.label == other.label and (model.run is None or other.run is None):
                raise UserError(
                    f"models= has two models called {model.label}: {_place(other)} and {_place(model)}. Say which is "
                    "which: models=[{name: <a name>, ...}, {name: <another>, ...}]."
                )


def _place(model: EvaluatedModel) -> str:
    return str(model.folder if model.run is not None else model.weights or model.config["model"]["pretrained"])
