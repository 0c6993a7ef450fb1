"""Objectives: pure functions of the errors of preference pairs, one file each.

A new one is a module here with a subclass of ``Objective`` (or ``Method``) in it, and a file of its settings under
conf/objective/.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from mapolab.errors import UserError
from mapolab.objectives._base import Method, Objective, ObjectiveResult, PairErrors

__all__ = ["Method", "Objective", "ObjectiveResult", "PairErrors", "build", "names"]


def names() -> tuple[str, ...]:
    """The objectives there are: the modules of this package."""
    return tuple(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def build(name: str, **settings: Any) -> Any:
    """The objective of a conf file's name with its settings, e.g. ``build("mapo", beta=8)``.

    A setting that is an objective itself is a mapping of its name and settings. Raises UserError for an unknown name,
    and for a setting that is unknown, missing or out of range.
    """
    if name not in names():
        close = get_close_matches(str(name), names(), 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"There is no objective {name!r}.{hint} There are {', '.join(names())}.")
    objective = _objective_class(name)
    known = {setting.name: setting for setting in fields(objective) if "allowed" in setting.metadata}
    unknown = [setting for setting in settings if setting not in known]
    if unknown:
        allowed = f"its settings are {', '.join(known)}" if known else "it has no settings"
        raise UserError(f"The objective {name} has no setting {', '.join(unknown)}; {allowed}.")
    missing = [key for key, setting in known.items() if setting.default is MISSING and key not in settings]
    if missing:
        raise UserError(f"The objective {name} needs a value for {', '.join(missing)}.")
    return objective(**{key: _inner(value) if isinstance(value, dict) else value for key, value in settings.items()})


def _inner(settings: dict[str, Any]) -> Method:
    """The objective that another one holds."""
    if "name" not in settings:
        raise UserError(f"The objective {settings} within another one has no name. Give it one: name: diffusion_dpo.")
    return build(**settings)


def _objective_class(name: str) -> type[Method]:
    module = import_module(f"{__name__}.{name}")
    own = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
    return next(item for item in own if issubclass(item, Method))
