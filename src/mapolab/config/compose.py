"""A command's config from Python, as the command line would compose it."""

from collections.abc import Sequence
from typing import Any

from hydra import version
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import open_dict

from mapolab.config.hydra_loader import CheckedLoader
from mapolab.config.load import load
from mapolab.paths import conf_folder


def compose(command: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The typed config of `train`, `evaluate` or `compare` with these overrides, such as ["seed=1", "objective=sft"].

    Also within a command, which Hydra runs: `hydra.compose` would ask for Hydra's one global state. Raises UserError as
    `load.load` does, and Hydra's own errors for overrides that cannot be composed.
    """
    version.setbase("1.3")
    setup_globals()
    loader = CheckedLoader(create_config_search_path(str(conf_folder())))
    config = loader.load_configuration(command, list(overrides), RunMode.RUN, from_shell=False)
    with open_dict(config):
        del config["hydra"]
    return load(config, command)
