"""Which runs are one method, and what each method is called: no two alike, and settings in one order."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from mapolab.config.environment_values import KEY
from mapolab.config.identity import identity
from mapolab.config.rollout import reward_label
from mapolab.errors import UserError
from mapolab.evaluation.saved import read_base
from mapolab.files import short_hash
from mapolab.report.names import METHOD_NAMES
from mapolab.report.runs import Method, Run, flatten

OBJECTIVE = "objective."
# What decides a run's weights and is not among its settings, is only a name, or is told in fewer words: told where
# nothing else tells methods apart.
LAST_RESORT = ("name", "data_fingerprint", "base", "rollout.rewards")
LONGEST_WORD = 40
"""Characters of a setting's value; of a longer one the beginning is told, and a hash."""


@dataclass(frozen=True)
class _Group:
    """Runs of one method. family: the objective's name, or the label of a model that was not trained here. settings:
    by dotted key, None where a run has none; its objective's first."""

    runs: tuple[Run, ...]
    family: str
    settings: dict[str, Any]

    @property
    def trained(self) -> bool:
        return bool(self.runs[0].config)


def group_methods(base: Run, runs: list[Run]) -> tuple[Method, list[Method]]:
    """The base, and one method for all runs with the same settings: those of one objective together, by their settings
    as numbers, and objectives in the order of their first run.

    Methods of one objective all tell the same settings: its own, and every other one in which two of them differ.
    Raises UserError for two runs that are the same method with the same seed.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        # A model that was not trained here has no seeds that could be pooled.
        same = f"{_family(run)} {short_hash(_settings(run, runs))}" if run.config else str(run.folder.resolve())
        groups.setdefault(same, []).append(run)
    members = [_group(_by_seed(group), runs) for group in groups.values()]
    families = list(dict.fromkeys(group.family for group in members))
    told = {family: _told_keys([group for group in members if group.family == family]) for family in families}
    members.sort(key=lambda group: (families.index(group.family), _order(group, told[group.family])))
    reference, *methods = _named([_group((base,), runs), *members])
    return reference, methods


def _by_seed(group: list[Run]) -> tuple[Run, ...]:
    ordered = sorted(group, key=lambda run: run.seed or 0)
    for run, following in pairwise(ordered):
        if run.seed == following.seed:
            raise UserError(
                f"{run.folder} and {following.folder} are the same method with the same seed, so that one would count "
                "twice. Name only one of them in runs=."
            )
    return tuple(ordered)


def _group(runs: tuple[Run, ...], everyone: list[Run]) -> _Group:
    return _Group(runs, _family(runs[0]), _settings(runs[0], everyone))


def _family(run: Run) -> str:
    return run.config["objective"]["name"] if run.config else run.label


def _settings(run: Run, everyone: list[Run]) -> dict[str, Any]:
    """What decides a run's weights, beside its seed, the objective's settings first; those that are not set left out,
    as in a run from before there was the setting."""
    if not run.config:
        return {}
    found = flatten(identity(run.config))
    for key, text in run.config.get(KEY, {}).items():
        if key in found:  # not the value, but what tells it from others
            found[key] = f"{text}#{short_hash(found[key])}"
    if rollout := run.config.get("rollout"):
        found[f"{OBJECTIVE}reward"] = "+".join(map(reward_label, rollout["rewards"]))
    found |= {key: _fact(run, key, everyone) for key in ("data_fingerprint", "base")}
    kept = {key: _number(value) for key, value in found.items() if value is not None}
    for key in ("seed", "objective.name"):
        kept.pop(key, None)
    return dict(sorted(kept.items(), key=lambda item: not item[0].startswith(OBJECTIVE)))


def _fact(run: Run, key: str, everyone: list[Run]) -> str | None:
    """The data's content, or the model's that the run started from; where a run does not say it, what all others say,
    None if they do not agree."""
    if (own := _own_fact(run, key)) is not None:
        return own
    others = {_own_fact(other, key) for other in everyone} - {None}
    return others.pop() if len(others) == 1 else None


def _own_fact(run: Run, key: str) -> str | None:
    if key == "data_fingerprint":
        return run.manifest.get(key)
    base = read_base(run.folder, run.evaluation)
    return base.name if base else None


def _number(value: Any) -> Any:
    """`1e-05`, which YAML reads as text, as the number that it is."""
    if not isinstance(value, str) or not re.fullmatch(r"-?\d+(\.\d*)?[eE][+-]?\d+", value):
        return value
    number = float(value)
    return int(number) if number.is_integer() else number


def _told_keys(family: list[_Group]) -> list[str]:
    """The settings that methods of one objective tell: the objective's, and those in which two of them differ."""
    keys = dict.fromkeys(key for group in family for key in group.settings)

    def differ(key: str) -> bool:
        return len({setting_text(group.settings.get(key)) for group in family}) > 1

    told = [key for key in keys if key not in LAST_RESORT and (key.startswith(OBJECTIVE) or differ(key))]
    for key in LAST_RESORT:
        alike = Counter(tuple(setting_text(group.settings.get(one)) for one in told) for group in family)
        if differ(key) and max(alike.values()) > 1:
            told.append(key)
    return sorted(told, key=lambda key: not key.startswith(OBJECTIVE))


def _order(group: _Group, keys: list[str]) -> tuple:
    """Sorts by each setting in turn: what is not set first, then numbers by size, then texts by those within."""
    return tuple(_rank(group.settings.get(key)) for key in keys)


def _rank(value: Any) -> tuple:
    if value is None:
        return (0, ())
    if isinstance(value, int | float):
        return (1, ("", value))
    parts = re.split(r"(\d+(?:\.\d+)?)", setting_text(value))
    return (2, tuple(float(part) if number % 2 else part for number, part in enumerate(parts)))


def _named(groups: list[_Group]) -> list[Method]:
    named = []
    for group in groups:
        if not group.trained:
            label = group.runs[0].label
            named.append(Method(label, group.runs, METHOD_NAMES[label] if label == "base" else label))
            continue
        family = [other for other in groups if other.trained and other.family == group.family]
        keys = _told_keys(family)
        words = {_word(key, keys, group, family): key for key in keys}
        shared = [word for word, key in words.items() if len({_word(key, keys, one, family) for one in family}) == 1]
        name = " ".join([METHOD_NAMES.get(group.family, group.family), *(word for word in words if word not in shared)])
        label = " ".join([group.family, *words])
        named.append(Method(label, group.runs, name, tuple(words), tuple(shared), group.settings))
    # What no setting tells apart: one run of several as the base of its siblings, models of one name.
    for tell in (_seed_word, lambda method: method.runs[0].folder.resolve().name, lambda method: _folder(method)):
        named = _apart(named, tell)
    return named


def _seed_word(method: Method) -> str:
    return f"seed={','.join(map(str, method.seeds))}" if method.trained else ""


def _folder(method: Method) -> str:
    return str(method.runs[0].folder)


def _apart(methods: list[Method], tell: Callable[[Method], str]) -> list[Method]:
    """The methods, with a word of `tell` for those whose label or name another one has too."""

    def repeated(names: Iterable[str]) -> set[str]:
        return {name for name, count in Counter(map(str.casefold, names)).items() if count > 1}

    words = {method.runs[0].folder.resolve(): tell(method) for method in methods}
    told = [method for method in methods if words[method.runs[0].folder.resolve()]]
    labels, names = repeated(method.label for method in told), repeated(method.name for method in told)
    result = []
    for method in methods:
        word = words[method.runs[0].folder.resolve()]
        if word and (method.label.casefold() in labels or method.name.casefold() in names):
            both = {"label": f"{method.label} {word}", "name": f"{method.name} {word}"}
            method = replace(method, **both, words=(*method.words, word))
        result.append(method)
    return result


def _word(key: str, keys: list[str], group: _Group, family: list[_Group]) -> str:
    """A setting as it stands in a label: `lr=0.0001`; of a block that the method does not have, such as a LoRA, one
    word."""
    value, block = group.settings.get(key), key.rpartition(".")[0]
    if key == "data.label_flip_probability":
        return {0: "labels as given", 1: "swapped labels"}.get(value or 0, f"{value or 0:.0%} of labels flipped")
    if "." in block and not any(own.startswith(f"{block}.") for own in group.settings):
        return f"{block.rpartition('.')[2]}=unset"
    return f"{_short_key(key, keys)}={_short_value(value, [other.settings.get(key) for other in family])}"


def _short_key(key: str, keys: list[str]) -> str:
    """The last parts of the key, as many as no other key of `keys` ends with: `optimizer.lr` is lr. A name, a path or
    a class goes by what it names: `schedule.name` is schedule."""
    parts = {one: _parts(one) for one in keys}
    own = parts[key]
    for count in range(1, len(own)):
        if sum(other[-count:] == own[-count:] for other in parts.values()) == 1:
            return ".".join(own[-count:])
    return ".".join(own)


def _parts(key: str) -> list[str]:
    parts = key.split(".")
    return parts[:-1] if len(parts) > 1 and parts[-1] in ("name", "path", "_target_") else parts


def _short_value(value: Any, others: list[Any]) -> str:
    """In one word; of paths as many last parts as tell them apart; of what is long, the beginning and a hash."""
    text = setting_text(value)
    if isinstance(value, float):  # in six digits, unless these are another's too
        short = f"{value:g}"
        alike = {setting_text(other) for other in others if isinstance(other, float) and f"{other:g}" == short}
        return short if len(alike) == 1 else text
    if isinstance(value, str) and "/" in value:
        paths = {PurePosixPath(other).parts for other in others if isinstance(other, str)}
        own = PurePosixPath(value).parts
        ends = (count for count in range(1, len(own)) if sum(path[-count:] == own[-count:] for path in paths) == 1)
        text = "/".join(own[-next(ends, len(own)) :])
    if len(text) <= LONGEST_WORD:
        return text
    return f"{text[: LONGEST_WORD - 9]}\N{HORIZONTAL ELLIPSIS}{short_hash(text)}"


def setting_text(value: Any) -> str:
    """As it is typed on the command line, a number in full."""
    if value is None:
        return "unset"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
