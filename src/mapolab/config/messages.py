"""Hydra's and OmegaConf's complaints about a command line, each as one paragraph that names the fix."""

import re

from mapolab.config.load import known_keys
from mapolab.config.suggest import did_you_mean, did_you_mean_key

OPEN_BLOCKS = ("optimizer.", "logger.")  # whose keys belong to a class of another package


def explain(error: Exception, command: str) -> str:
    """What to tell the user about `error`, which Hydra raised while composing the config of `command`."""
    text = str(error).strip() or str(error.__cause__)
    if found := re.match(r"Could not override '(.+?)'", text):
        return _unknown_key(found[1], command)
    if found := re.search(r"Could not find '(.+?)'", text):
        return _unknown_option(found[1], text)
    if found := re.match(r"Ambiguous value for argument '(.+?)'", text):
        key, _, value = found[1].partition("=")
        return f"{found[1]} names several values. To sweep over them add -m; for a list write {key}=[{value}]."
    if found := re.match(r"Missing mandatory value: (\S+)", text):
        return f"{found[1]} has no value. Give it one: {found[1]}=..."
    if "override_grammar" in text:
        return (
            f"The command line cannot be read: {_joined(text.split('See https')[0])}. Overrides are key=value; quote a "
            "value that holds spaces, '=', quotes or brackets, for the shell as well: 'key=\"a = b\"'."
        )
    return f"The config cannot be composed: {_joined(text)}"


def _unknown_key(key: str, command: str) -> str:
    if key.startswith("model.lora."):
        return f"This model has no adapters, so there is no key {key}. Use model=sdxl_lora or model=tiny_twin_lora."
    if key.startswith("hydra."):
        return (
            f"There is no key {key}. `mapolab {command} --cfg hydra` prints all of Hydra's; with "
            "hydra/launcher=slurm also that launcher's."
        )
    hint = did_you_mean_key(key, known_keys(command))
    if not hint and key.startswith(OPEN_BLOCKS):
        hint = f" If its class knows this setting, add it with a plus: +{key}=..."
    return f"There is no key {key}.{hint} `mapolab {command} --cfg job` prints all of them."


def _unknown_option(name: str, text: str) -> str:
    """name: group/option, as in objective/mapo."""
    group, _, option = name.rpartition("/")
    listed = re.search(r"Available options in .*?:\n((?:\t.*\n?)+)", text)
    options = [line.strip() for line in listed[1].splitlines()] if listed else []
    if not options:
        return f"There is no config {name}. {_joined(text)}"
    return f"There is no {group}={option}.{did_you_mean(option, options)} Available: {', '.join(options)}."


def _joined(text: str) -> str:
    return " ".join(text.split())
