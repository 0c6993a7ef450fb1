"""What a config may make Hydra itself do: next to nothing.

Hydra builds callbacks, log handlers, launchers and sweepers from the block `hydra` of a config, and sets environment
variables and folders by it. The block is composed from files that people copy from each other, so all of it is held
against the lists below before Hydra looks at it: `hydra_loader` sees to that.
"""

import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mapolab.config.groups import settings_of
from mapolab.errors import UserError
from mapolab.output import SWEEP, OutputFolder
from mapolab.texts import odd_character

MOST_JOBS = 10_000  # of a sweep: Hydra makes a list of all of them first

# These have one value. As it stands in the files: an interpolation is another one.
FIXED: dict[str, tuple[Any, ...]] = {
    "callbacks": ({}, None),
    "env": ({}, None),
    "job.env_set": ({},),
    "job.env_copy": ([],),
    "job.chdir": (False,),
    "job.id": ("???",),
    "job.num": ("???",),
    "output_subdir": (None,),
    "run.dir": (".",),
    "sweep.subdir": (".",),
}
# These are one of the groups that come with Hydra, to the letter; of the log handlers those that write no file.
HYDRAS_OWN = {
    "job_logging": ("none", "disabled", "stdout"),
    "hydra_logging": ("none", "disabled", "default"),
}
# Texts that are shown, names, and what Hydra writes over itself.
FREE = (
    "mode", "verbose", "searchpath", "help", "hydra_help", "overrides", "runtime", "job.name", "job.override_dirname",
    "job.config_name", "job.config", "sweep.dir", "launcher", "sweeper",
)  # fmt: skip
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")

BASIC = "hydra._internal.core_plugins.basic_"
# Launchers of other packages that docs/clusters.md names, with their settings.
FOREIGN_LAUNCHERS = {
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": (
        "n_jobs", "backend", "prefer", "require", "verbose", "timeout", "pre_dispatch", "batch_size", "temp_folder",
        "max_nbytes", "mmap_mode",
    ),
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": (
        "submitit_folder", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
        "stderr_to_stdout", "partition", "qos", "comment", "constraint", "exclude", "gres", "cpus_per_gpu",
        "gpus_per_task", "mem_per_gpu", "mem_per_cpu", "account", "signal_delay_s", "max_num_timeout",
        "additional_parameters", "array_parallelism", "setup",
    ),
}  # fmt: skip
# Settings whose value is run by a shell, or says where files and jobs go. They are the user's own to give, in the
# command; from a file they are taken only with the value that stands here.
OF_THE_COMMAND = {
    "setup": (None, []), "wrap": (None,), "extra": (None, []), "script": (None,), "address": (None,),
    "backend": (None,), "temp_folder": (None,), "additional_parameters": (None, {}),
    "submitit_folder": (None, "${hydra.sweep.dir}/.submitit/%j"),
}  # fmt: skip


def check_hydra(config: DictConfig, overrides: Sequence[str], run_mode: RunMode) -> None:
    """Raise UserError unless all of `config.hydra` is allowed. overrides: those of the command line."""
    block = OmegaConf.to_container(config.hydra, resolve=False, throw_on_missing=False)
    for key, value in _leaves(block):
        if key in FIXED:
            if not any(value == allowed and type(value) is type(allowed) for allowed in FIXED[key]):
                raise _refusal(key, value, f"It is {_shown(FIXED[key][0])} here.")
        elif key in HYDRAS_OWN:
            if value not in [_hydras_own(key, option) for option in HYDRAS_OWN[key]]:
                raise _refusal(key, value, f"Choose hydra/{key}={'|'.join(HYDRAS_OWN[key])}.")
        elif key not in FREE:
            raise _refusal(key, value, "mapolab knows no use for it.")
    if sorted(map(str, [*block["overrides"]["hydra"], *block["overrides"]["task"]])) != sorted(overrides):
        raise _refusal("hydra.overrides", "more than the command says", "Overrides are given in the command.")
    if not JOB_NAME.fullmatch(str(block["job"]["name"])):
        raise _refusal("job.name", block["job"]["name"], "Give letters, digits, '_', '-', '+' and '.'.")
    for key in ("help", "hydra_help"):
        if block[key]["template"] != _hydras_own(key, "default")["template"]:
            raise _refusal(f"{key}.template", block[key]["template"], "Only help's header and footer may be changed.")
    if not _is_verbose(block["verbose"]):
        raise _refusal("verbose", block["verbose"], "Give true, false, or names of loggers.")
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    _check_built(config, "launcher", parsed)
    _check_built(config, "sweeper", parsed)
    if config.hydra.mode == run_mode == RunMode.MULTIRUN:
        _check_sweep(config, parsed)


def _leaves(block: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """(key, value) as the lists above name them: `job` and `sweep` by their own keys, the rest as wholes."""
    for key, value in block.items():
        if key in ("job", "run", "sweep") and isinstance(value, dict):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


@cache
def _hydras_own(group: str, option: str) -> Any:
    file = resources.files("hydra.conf") / "hydra" / group / f"{option}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _is_verbose(value: Any) -> bool:
    return isinstance(value, bool | str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _check_built(config: DictConfig, kind: str, parsed: Sequence[Override]) -> None:
    """The launcher or sweeper is one that is known, with settings that it has and values that build nothing."""
    raw = OmegaConf.to_container(config.hydra, resolve=False, throw_on_missing=False)[kind]
    target = raw.get("_target_") if isinstance(raw, dict) else None
    known = _known(kind)
    if target not in known:
        names = ", ".join(name.rpartition(".")[2] for name in known)
        raise _refusal(f"{kind}._target_" if isinstance(raw, dict) else kind, target, f"Those that it knows: {names}.")
    given = {item.get_key_element().lstrip("+~") for item in parsed}
    for key, value in raw.items():
        where = f"{kind}.{key}"
        if key not in ("_target_", *known[target]):
            raise _refusal(where, value, f"The settings of {target.rpartition('.')[2]}: {', '.join(known[target])}.")
        if key in OF_THE_COMMAND and value not in OF_THE_COMMAND[key] and f"hydra.{where}" not in given:
            raise _refusal(where, value, f"It is taken from the command only: 'hydra.{where}=...'.")
    try:
        resolved = OmegaConf.to_container(config.hydra[kind], resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise UserError(f"hydra.{kind} cannot be resolved: {str(error).splitlines()[0]}") from None
    for key, value in resolved.items():
        if key != "_target_" and (named := _special(value)):
            raise _refusal(f"{kind}.{key}", f"a value with {named}", "It takes plain values, and $NAME without braces.")
        if key == "params" and not isinstance(value, dict | None):
            raise _refusal(f"{kind}.{key}", value, "Give a block of keys and their ranges.")


def _known(kind: str) -> dict[str, Sequence[str]]:
    """Class -> the names of its settings."""
    found = {}
    for settings in settings_of(f"hydra/{kind}").values():
        if "_target_" in settings:
            found[settings["_target_"]] = [key for key in settings if key != "_target_"]
    if kind == "sweeper":
        return {f"{BASIC}sweeper.BasicSweeper": ("max_batch_size", "params"), **found}
    return {f"{BASIC}launcher.BasicLauncher": (), **found, **FOREIGN_LAUNCHERS}


def _special(value: Any) -> str | None:
    """At any depth a key by which Hydra would build an object, or an interpolation that is left over: Hydra resolves
    what it builds from a second time."""
    if isinstance(value, str):
        return "${" if "${" in value else None
    if isinstance(value, dict):
        own = next((key for key in value if str(key).startswith("_")), None)
        return own or next(filter(None, map(_special, value.values())), None)
    return next(filter(None, map(_special, value)), None) if isinstance(value, list) else None


def _check_sweep(config: DictConfig, parsed: Sequence[Override]) -> None:
    """Its folder is one for a sweep, and its jobs can be counted."""
    try:
        folder = str(config.hydra.sweep.dir)
    except OmegaConfBaseException as error:
        raise UserError(f"hydra.sweep.dir cannot be resolved: {str(error).splitlines()[0]}") from None
    if found := odd_character(folder):
        raise _refusal("sweep.dir", folder, f"No folder can have the character {found} in its name.")
    if config.hydra.job.config_name == "train" or folder != ".":
        OutputFolder(Path(folder), SWEEP).check()
    # A search draws from intervals and lists as they are asked for; a grid, and Hydra's own sweeper, take all at once.
    sweeper = config.hydra.sweeper
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    swept = [item for item in [*OverridesParser.create().parse_overrides(params), *parsed] if item.is_sweep_override()]
    sizes = {item.get_key_element(): _size(item) for item in swept}
    jobs = math.prod(sizes.values()) if sweeper.get("sampler", "grid") == "grid" else max(sizes.values(), default=1)
    if jobs > MOST_JOBS:
        asked = ", ".join(f"{key} {size}" for key, size in sizes.items())
        raise UserError(f"This sweep has {jobs} jobs ({asked}), more than {MOST_JOBS}. Sweep over fewer values.")


def _size(override: Override) -> int:
    """How many values a key is swept over."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    if isinstance(value, RangeSweep):
        start, stop, step = (float(number) for number in (value.start, value.stop, value.step or 1))
        steps = (stop - start) / step if step else math.inf
        if not math.isfinite(steps):
            raise UserError(f"{override.input_line} has no end. Give range(first, last, step) with numbers.")
        return max(0, math.ceil(steps))
    return 1


def _refusal(key: str, value: Any, fix: str) -> UserError:
    name = key if key.startswith("hydra.") else f"hydra.{key}"
    return UserError(
        f"{name} is {_shown(value)}, which mapolab does not allow: a config must not make Hydra run, write or change "
        f"anything. {fix} Leave it out of the command and of the config files (`--info defaults` lists them)."
    )


def _shown(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
