"""A command's config from Python, as the command line would compose it."""

from collections.abc import Sequence
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from mapolab.config.load import load
from mapolab.paths import conf_folder


def compose(command: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The typed config of `train`, `evaluate` or `compare` with these overrides, such as ["seed=1", "objective=sft"].

    Raises UserError as `load.load` does, and Hydra's own errors for overrides that cannot be composed.
    """
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        return load(hydra_compose(command, list(overrides)), command)
