"""What is known of an objective's settings without building it: conf/objective has them all, each with a value."""

from typing import Any

from mapolab.config.groups import objective_settings
from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError


def check_objective(objective: dict[str, Any], block: str = "objective") -> None:
    """The objective exists, and its settings are those of its file under conf/objective/, of the same kind.

    block: its own key; objectives that hold another one are checked with it.
    """
    known = objective_settings()
    name = objective.get("name")
    if name not in known:
        hint = did_you_mean(str(name), known)
        raise UserError(f"There is no objective named {name}.{hint} Choose one of {', '.join(sorted(known))}.")
    defaults = known[name]
    for key, value in objective.items():
        if key not in defaults:
            hint = did_you_mean(f"{block}.{key}", [f"{block}.{setting}" for setting in defaults])
            settings = ", ".join(setting for setting in defaults if setting != "name") or "none"
            raise UserError(f"The objective {name} has no setting {key}.{hint} Its settings: {settings}.")
        if isinstance(value, dict):
            check_objective(value, f"{block}.{key}")
        elif is_number(defaults[key]) and not is_number(value):
            raise UserError(f"{block}.{key} is {value!r}; give a number, such as the default {defaults[key]}.")
    if absent := defaults.keys() - objective.keys():
        raise UserError(f"{block}.{min(absent)} has no value. Give it one, such as {defaults[min(absent)]}.")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
