"""What of a config came from the environment, `${oc.env:...}`, and where its values may be written.

`load` keeps the text that was typed under `from_environment`, by dotted key. A run's own config.yaml keeps the values,
which later commands need, except for those of variables that are secrets by their names; these, and everything that is
made to be given away (exports, the report), have the text.
"""

import copy
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

Config = dict[str, Any]
KEY = "from_environment"
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY|(^|_)(AUTH|KEY|PAT)$", re.IGNORECASE)
VARIABLE = re.compile(r"oc\.env:\s*['\"]?([A-Za-z_][A-Za-z0-9_]*)")
SHORTEST = 8
"""Characters of a variable's value that is looked for in other texts; a shorter one may stand there by chance."""


def texts_from_environment(composed: DictConfig, values: Config) -> dict[str, str]:
    """Dotted key -> the text with `${oc.env:...}`, all else in it resolved, of every leaf of `values` that depends on
    the environment; where a resolver takes no such text, the text as it was typed."""
    typed = OmegaConf.to_container(composed)
    if "oc.env" not in repr(typed):
        return {}
    found: dict[str, str] = {}
    OmegaConf.register_new_resolver("oc.env", lambda name, *_: f"${{oc.env:{name}}}", replace=True)
    try:
        for keys, value in _leaves(values):
            text: Any = composed
            try:
                for key in keys:
                    text = text[key]
            except Exception:  # of a resolver, such as one that decodes a number
                text = leaf(typed, ".".join(map(str, keys)))
            if text != value:
                found[".".join(map(str, keys))] = str(text)
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    return found


def _leaves(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(keys, value) of every leaf of a config."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield keys, value
    for key, item in inner or ():
        yield from _leaves(item, (*keys, key))


def as_typed(config: Config) -> Config:
    """The config with the texts in place of the environment's values."""
    return _with_texts(config, lambda text: True, config.get(KEY) or {})


def as_saved(config: Config) -> Config:
    """The config as a run keeps it: without the values of variables that are secrets by their names."""
    return _with_texts(config, _is_secret, config.get(KEY) or {}, keep=True)


def hide(text: str, *configs: Config) -> str:
    """A text without the values that these configs have from the environment, and without this process's secrets."""
    for config in configs:
        for key, typed in (config.get(KEY) or {}).items():
            value = leaf(config, key)
            if isinstance(value, str) and len(value) >= SHORTEST:
                text = text.replace(value, typed)
            for name in VARIABLE.findall(typed):
                text = _without(text, name)
    for name in os.environ:
        if SECRET.search(name):
            text = _without(text, name)
    # Of an address the user's name and password, and what a key that is called so has for its value.
    text = re.sub(r"(?<=://)[^/\s@]+@", "", text)
    text = re.sub(r"\bhf_[A-Za-z0-9]{16,}", "hf_...", text)
    return re.sub(r"(?i)([\w.]*(?:token|secret|passw\w*|api_?key)=)(?!\$\{)[^\s&,'\"]+", r"\1...", text)


def hidden(value: Any, *configs: Config) -> Any:
    """`hide` for every text in a JSON-able value."""
    if isinstance(value, dict):
        return {key: hidden(item, *configs) for key, item in value.items()}
    if isinstance(value, list):
        return [hidden(item, *configs) for item in value]
    return hide(value, *configs) if isinstance(value, str) else value


def for_others(value: Any, *configs: Config) -> Any:
    """A JSON-able value as it may be given away: `hidden`, and of absolute paths the last part, since the others tell
    of this machine and its user."""
    if isinstance(value, dict):
        return {key: for_others(item, *configs) for key, item in value.items()}
    if isinstance(value, list):
        return [for_others(item, *configs) for item in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"(?:(?<=^)|(?<=[\s='\"(\[,;:]))(?:~|/(?!/))(?:[^\s'\",;:=)\]]*/)", ".../", hide(value, *configs))


def _is_secret(text: str) -> bool:
    return any(SECRET.search(name) for name in VARIABLE.findall(text))


def _without(text: str, name: str) -> str:
    value = os.environ.get(name, "")
    return text.replace(value, f"${{oc.env:{name}}}") if len(value) >= SHORTEST else text


def _with_texts(config: Config, chosen: Callable[[str], bool], texts: dict[str, str], keep: bool = False) -> Config:
    found = copy.deepcopy(config)
    for key, text in texts.items():
        *above, last = key.split(".")
        block = leaf(found, ".".join(above)) if above else found
        if chosen(text) and isinstance(block, dict) and last in block and isinstance(block[last], str):
            block[last] = text
        elif chosen(text) and isinstance(block, list) and last.isdecimal() and int(last) < len(block):
            block[int(last)] = text
    if not keep:
        found.pop(KEY, None)
    return found


def leaf(config: Any, key: str) -> Any:
    """The value under a dotted key; None where there is none."""
    for name in key.split("."):
        if isinstance(config, dict):
            config = config.get(name)
        elif isinstance(config, list) and name.isdecimal() and int(name) < len(config):
            config = config[int(name)]
        else:
            return None
    return config
