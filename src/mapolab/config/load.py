"""From what Hydra composed to a plain config: every key known, set and of its type."""

import re
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mapolab.config.environment import nodes_from_environment
from mapolab.config.environment_values import KEY, leaf, texts_from_environment
from mapolab.config.groups import OPEN_GROUPS, objective_settings, settings_of
from mapolab.config.schema import SCHEMAS, TRAIN_LIKE
from mapolab.config.suggest import did_you_mean_key
from mapolab.errors import UserError


def load(config: DictConfig, command: str) -> dict[str, Any]:
    """A composed config as a plain dict: interpolations resolved, every key known, set and of its type.

    Where something came from the environment, `from_environment` has the texts that were typed, by dotted key. Raises
    UserError, naming the key, for anything else.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise _not_set(error.full_key) from None
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(
            f"{getattr(error, 'full_key', None) or 'The config'} cannot be resolved: {_first_line(error)}. Correct the "
            "${...} in it; for these signs themselves write \\${...}."
        ) from None
    given = texts_from_environment(config, values)
    _check_environment(values, given)
    config = typed(values, SCHEMAS[command])
    if given:
        config[KEY] = given
    if config.get("objective"):
        config["objective"] = _settings_it_has(config["objective"])
    if config.get("strategy", {}).get("num_nodes") == "auto":
        config["strategy"]["num_nodes"] = nodes_from_environment()
    return config


def _check_environment(values: dict[str, str], given: dict[str, str]) -> None:
    """Raise UserError for an address that holds a value of the environment: whoever wrote the config would be sent it.

    values: the config, resolved. given: what came from the environment, by dotted key.
    """
    for key in given:
        if "://" in str(leaf(values, key)):
            raise UserError(
                f"{key} is an address with a value of the environment (oc.env) in it, which would be sent there. If "
                "you mean it, let your shell write the value into the command."
            )


def typed(values: dict[str, Any], schema: type, where: str = "") -> dict[str, Any]:
    """A block's values, each converted to its field's type in `schema` (a dataclass).

    where: the block's own key, for the messages. Raises UserError for an unknown key, a wrong type, a missing value.
    """
    prefix = f"{where}." if where else ""
    _reject_unknown(values, schema, prefix)
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(schema), values), throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise _not_set(prefix + error.full_key) from None
    except OmegaConfBaseException as error:
        raise UserError(
            f"{prefix}{error.full_key} has the wrong type. {_first_line(error)}. Correct the value."
        ) from None
    return merged


def _settings_it_has(objective: dict[str, Any]) -> dict[str, Any]:
    """Without what is null and no setting of this objective: an experiment sets `beta` for those that have one."""
    known = objective_settings().get(objective.get("name"), {})
    return {key: value for key, value in objective.items() if value is not None or key in known}


def known_keys(command: str) -> set[str]:
    """Every key of a command's config in dotted form, with those that conf/ gives to the open blocks."""
    return _dotted(SCHEMAS[command], "") | (_keys_of_open_blocks() if command in TRAIN_LIKE else set())


def _reject_unknown(values: dict[str, Any], schema: type, prefix: str) -> None:
    types = get_type_hints(schema)
    for key, value in values.items():
        if key not in types:
            known = [prefix + name for name in types]
            hint = did_you_mean_key(f"{prefix}{key}", known)
            raise UserError(f"There is no key {prefix}{key}.{hint} Known here: {', '.join(sorted(known))}.")
        if (block := _block(types[key])) and isinstance(value, dict):
            _reject_unknown(value, block, f"{prefix}{key}.")


def _dotted(schema: type, prefix: str) -> set[str]:
    types = get_type_hints(schema)
    keys = {prefix + item.name for item in fields(schema)}
    return keys.union(*(_dotted(block, f"{prefix}{key}.") for key in types if (block := _block(types[key]))))


def _block(kind: Any) -> type | None:
    """The dataclass of a nested block, also of one that may be null; None for a single value."""
    return next((item for item in (kind, *get_args(kind)) if is_dataclass(item)), None)


def _keys_of_open_blocks() -> set[str]:
    return {f"{group}.{key}" for group in OPEN_GROUPS for settings in settings_of(group).values() for key in settings}


def _not_set(key: str) -> UserError:
    if key.startswith("rollout."):
        return UserError(
            f"{key} has no value: only with objective=ddpo is the block rollout whole. Use that objective, or another "
            "one without the block: rollout=null."
        )
    key = re.sub(r"\[(\d+)\]", r".\1", key)  # as the command line takes an entry of a list
    return UserError(f"{key} has no value. Give it one: {key}=...")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
