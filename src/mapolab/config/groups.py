"""What the files of a config group set, read as they stand: for the checks of blocks whose keys no schema knows."""

from typing import Any

import yaml

from mapolab.paths import conf_folder

OPEN_GROUPS = ("objective", "optimizer", "logger")


def settings_of(group: str) -> dict[str, dict[str, Any]]:
    """Option -> the keys of its block with their values.

    A file with `# @package _global_` names its block; an entry `/group@key: option` of a defaults list fills a key.
    """
    found = {}
    for file in sorted((conf_folder() / group).glob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        included = content.pop("defaults", [])
        filled = [key.partition("@")[2] for entry in included if isinstance(entry, dict) for key in entry if "@" in key]
        found[file.stem] = content.get(group, content) | {key: {} for key in filled if not key.startswith("_")}
    return found


def objective_settings() -> dict[str, dict[str, Any]]:
    """Every objective with its settings and their defaults."""
    return settings_of("objective")
