"""What decides a score, as a hash: the class and its code, the settings, and the files behind them.

An author of a scorer does nothing for it. Settings are taken where the scorer is constructed, defaults included, but
for `device`. A setting that names a file or a folder counts with all the bytes there; so does the package that the
class comes from, since a scorer under work changes without a new version. Of the scorers in mapolab the code does not
count, or every refactoring would have all pictures scored again: they have a `version`, which is raised where a change
of code or of a library changes the numbers, as tests against each score's definition show.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mapolab.errors import UserError
from mapolab.files import short_hash
from mapolab.hashes import tree_hashes
from mapolab.paths import resolve

if TYPE_CHECKING:
    from mapolab.evaluation.scorers.scorer import Scorer


def note_settings(scorer: Scorer, made_by: Callable, args: tuple = (), given: dict[str, Any] | None = None) -> None:
    """Keep what `made_by`, the class or a function that returns a scorer, was given. Wrong arguments are not kept."""
    try:
        bound = signature(made_by).bind(*args, **(given or {}))
    except TypeError:  # the constructor itself says so; and a copy of a scorer is made without arguments
        return
    bound.apply_defaults()
    settings = {name: _plain(value) for name, value in bound.arguments.items() if name != "device"}
    noted = [made_by.__module__, made_by.__qualname__, settings]
    # Past __setattr__, which a frozen dataclass refuses and torch's modules take for their own.
    known = scorer.__dict__.setdefault("made_by", [])
    if noted not in known:
        known.append(noted)


def signature(made_by: Callable) -> inspect.Signature:
    """The settings of a scorer's class, or of a function that makes one."""
    if not isinstance(made_by, type):
        return inspect.signature(made_by)
    if made_by.__init__ is object.__init__:
        return inspect.Signature()
    _, *parameters = inspect.signature(made_by.__init__).parameters.values()
    return inspect.Signature(parameters)


def fingerprint(scorer: Scorer) -> str:
    """Raises UserError for a file that a setting names and that cannot be read."""
    kind = type(scorer)
    made = [
        [module, name, {key: value for key, value in settings.items() if key not in scorer.outside_fingerprint}]
        for module, name, settings in scorer.__dict__.get("made_by", [])
    ]
    named = [] if _is_ours(kind.__module__) else _files_in(made)
    about = [kind.__module__, kind.__qualname__, scorer.name, _plain(scorer.version)]
    return short_hash([about, made, named, _code(scorer), scorer.weights_identity()])


def _plain(value: Any) -> Any:
    """A copy that JSON can hold. What is no data, a default such as a function, stands in the code: its type's name."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return [[_plain(key), _plain(value[key])] for key in sorted(value, key=repr)]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else f"{type(value).__module__}.{type(value).__qualname__}"


def _files_in(settings: Any) -> list[list[str]]:
    """The hashes of every file and folder that a text in these settings names.

    The name counts too: whether a text is a path, a prompt or the name of an architecture is not ours to know.
    """
    found = []
    for text in sorted(set(_texts(settings))):
        try:
            path = Path(resolve(text)).expanduser()
            there = bool(text.strip()) and path.exists()
        except (OSError, ValueError, RuntimeError, UserError):  # too long, a null byte, a home or asset that is not
            continue
        if there:
            found.append([text, *tree_hashes(path)])
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _code(scorer: Scorer) -> list[str]:
    """Hashes of the packages, or single modules, that define a scorer of others."""
    from mapolab.evaluation.scorers.scorer import Scorer

    classes = [kind.__module__ for kind in type(scorer).__mro__ if issubclass(kind, Scorer)]
    modules = [*classes, *(module for module, _, _ in scorer.__dict__.get("made_by", []))]
    found = []
    for name in sorted({module.split(".")[0] for module in modules if not _is_ours(module)}):
        package = sys.modules.get(name)
        places = list(getattr(package, "__path__", None) or filter(None, [getattr(package, "__file__", None)]))
        found += [digest for place in places if Path(place).exists() for digest in tree_hashes(Path(place))]
    return found


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "mapolab"
