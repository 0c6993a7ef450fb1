"""What can be known to be wrong before anything heavy is loaded, so that it fails in a second and not after the model.

Each check takes the typed config and raises UserError with the fix. They run in the order of their cost.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mapolab.config import files_named
from mapolab.config.identity import run_folder
from mapolab.config.model_checks import check_compiler, check_model_settings, check_precision
from mapolab.config.objective_checks import check_objective
from mapolab.config.pair_checks import PAIRS_OF_ROUND, check_iterate, check_make_pairs
from mapolab.config.ranges import check_values
from mapolab.config.rollout import check_rollout, draws_itself
from mapolab.config.schema import TRAIN_LIKE
from mapolab.config.suggest import did_you_mean
from mapolab.config.target_checks import check_optimizer, check_targets
from mapolab.errors import UserError
from mapolab.output import COMPARISON, EXPORT, RUN, TINY_BASE
from mapolab.paths import file_name_fault
from mapolab.texts import odd_character

Config = dict[str, Any]

EXPORT_FORMATS = ("pipeline", "unet", "single_file", "lora", "kohya")
# Runs are named after the experiment, and names become folders and table rows.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


def check(config: Config, command: str) -> None:
    """Run every check that belongs to a command. Raises UserError for the first thing that is wrong."""
    try:
        _check(config, command)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise UserError(f"{error.strerror}: {str(error.filename)[:200]}. Correct the path in the config.") from None


def _check(config: Config, command: str) -> None:
    _check_texts(config)
    check_values(dict(_flat(config)))
    if command in ("export", "mismatch") and config["run"]:
        files_named.check_run_folder(config["run"])
    if command == "make-pairs":
        check_make_pairs(config)
    if command == "iterate":
        check_iterate(config)
    if command == "evaluate":
        _check_evaluation(config)
    if command == "compare":
        _check_runs(config["runs"])
    if command == "plan":
        _check_plan(config)
    elif command in TRAIN_LIKE:
        _check_train(config, command)
    if command == "prepare":
        _check_prepare(config)
    if command == "export":
        _check_formats(config["formats"])
        files_named.check_output(Path(config["to"]), EXPORT)
        if config["name"] is not None and (fault := file_name_fault(config["name"])):
            raise UserError(
                f"name={config['name']!r} cannot name a file: {fault}. Give a plain name; which folder it is in is "
                "what to= says."
            )
    if command == "compare" and config["output_dir"]:
        files_named.check_output(Path(config["output_dir"]), COMPARISON)


def _check_texts(value: Any, key: str = "") -> None:
    """Every text of a config can be written: into the run's files, a picture's metadata, a table."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_texts(name, key)
            _check_texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            _check_texts(inner, key)
    elif isinstance(value, str) and (found := odd_character(value)):
        raise UserError(
            f"{key} holds the character {found}, which no file of text may hold: {value!r:.60}. Write it without."
        )


def _check_evaluation(evaluation: Config) -> None:
    """What `mapolab evaluate` and the later evaluation of a run are told; null is for the runs to say."""
    from mapolab.evaluation.scorers.registry import check_names

    named = evaluation["scorers"]
    if named is not None and not isinstance(named, list):
        raise UserError(f"scorers is {named}. Give a list, such as scorers=[{named}].")
    check_names(named or [])
    files_named.check_prompts(evaluation["prompts"], "prompts" if "models" in evaluation else "evaluation.prompts")
    devices = evaluation.get("devices", "auto")
    if devices != "auto" and not (type(devices) is int and devices >= 1):
        raise UserError(f"devices is {devices}; give a number of 1 or more, or auto.")


def _check_formats(formats: Any) -> None:
    unknown = [name for name in formats if name not in EXPORT_FORMATS] if isinstance(formats, list) else [formats]
    if formats != "auto" and (unknown or not formats):
        hint = did_you_mean(str(unknown[0]), EXPORT_FORMATS) if unknown else ""
        raise UserError(
            f"formats is {formats}.{hint} Give a list of {', '.join(EXPORT_FORMATS)}, such as formats=[lora,kohya], or "
            "auto."
        )


def _check_runs(runs: Any) -> None:
    """Its form only: what the names find is for the comparison to say."""
    names = runs if isinstance(runs, list) else [runs]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"runs is {runs}. Give folders, runs=[a,b], or a pattern, runs='outputs/emoji_style/*'.")


def _check_train(config: Config, command: str) -> None:
    _check_name(config["name"])
    _check_recipe(config)
    if command == "train":
        files_named.check_output(run_folder(config), TINY_BASE if config["task"] == "tiny_base" else RUN)
    if config["task"] == "tiny_base":
        return
    _check_devices(config["strategy"])
    check_objective(config["objective"])
    check_targets(config)
    files_named.check_model(config["model"])
    if config["data"]["path"] != PAIRS_OF_ROUND:
        files_named.check_data(config["data"]["path"])
    _check_data(config["data"])
    _check_checkpoints(config)
    _check_validation(config)
    _check_evaluation(config["evaluation"])
    check_model_settings(config)
    check_precision(config)
    check_compiler(config)
    _check_by_building(config)
    check_rollout(config)


def _check_plan(config: Config) -> None:
    """Only what the plan itself needs: data, packages and hardware may be on another machine."""
    if config["task"] != "align":
        raise UserError("There is no plan for task=tiny_base, which takes its fixed time on a CPU.")
    _check_devices(config["strategy"])
    check_objective(config["objective"])
    check_rollout(config)
    files_named.check_model(config["model"])
    check_model_settings(config)
    for key in ("efficiency", "peak_tflops", "memory_gib"):
        if config[key] is not None and not 0 < config[key] < math.inf:
            raise UserError(f"{key} is {config[key]}; give a number above 0.")
    if config["efficiency"] > 1:
        raise UserError(f"efficiency is {config['efficiency']}; give a share of the peak rate, from 0 to 1.")


def _check_prepare(config: Config) -> None:
    if draws_itself(config):
        raise UserError(f"{config['objective']['name']} draws its pictures, so there is nothing to prepare. Train it.")
    if config["task"] != "align" or not config["data"]["cache"]:
        raise UserError("This config trains without a cache, so there is nothing to prepare. Add data.cache=true.")
    if config["part"] >= config["parts"]:
        raise UserError(f"part is {config['part']} of {config['parts']} parts; give 0 to {config['parts'] - 1}.")


def _check_data(data: Config) -> None:
    window = data["shuffle_window"]
    if window not in ("auto", "all") and not (type(window) is int and window >= 1):
        raise UserError(f"data.shuffle_window is {window}; give a number of rows, all, or auto.")
    if data["aspect_buckets"] and (not data["cache"] or type(window) is int):
        raise UserError(
            "data.aspect_buckets=true sorts all rows by shape, which only a prepared cache knows. Set "
            "data.cache=true and data.shuffle_window=all, or data.aspect_buckets=false."
        )


def _check_checkpoints(config: Config) -> None:
    kind = config["strategy"]["options"].get("state_dict_type", "full")
    if kind not in ("full", "sharded"):
        hint = did_you_mean(str(kind), ("full", "sharded"))
        raise UserError(f"strategy.options.state_dict_type={kind} does not exist.{hint} Choose full or sharded.")
    if kind == "sharded" and config["trainer"]["checkpoint_in_background"]:
        raise UserError(
            "Sharded checkpoints are written by all ranks together, not in the background. Set "
            "trainer.checkpoint_in_background=false or strategy.options.state_dict_type=full."
        )


def _check_validation(config: Config) -> None:
    data, trainer = config["data"], config["trainer"]
    if data["validation_path"] is not None:
        files_named.check_data(data["validation_path"], "data.validation_path")
    if trainer["validate_every"] is None:
        if trainer["keep_best"] is not None:
            raise UserError(f"trainer.keep_best={trainer['keep_best']} needs figures. Set trainer.validate_every.")
    elif not data["validation_path"] and not data["validation_split"]:
        raise UserError(
            "trainer.validate_every needs held-out pairs. Name them: data.validation_split, or data.validation_path."
        )


def _flat(block: Config, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted key, value) of every leaf."""
    for key, value in block.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or file_name_fault(name):
        raise UserError(
            f"name={name!r} cannot name a folder. Use up to 100 letters, digits, '_', '-', '+' and '.', beginning with "
            "a letter or digit; where runs land is output_root's or output_dir's business."
        )


def _check_recipe(config: Config) -> None:
    if (config["task"] == "tiny_base") != (config["tiny_base"] is not None):
        raise UserError(
            f"task={config['task']} does not fit the block tiny_base. To train the tiny twin itself use "
            "experiment=tiny_base, which sets both; to align a model leave both as they are."
        )


def _check_devices(strategy: Config) -> None:
    devices, nodes = strategy["devices"], strategy["num_nodes"]
    if type(nodes) is not int or nodes < 1:
        raise UserError(f"strategy.num_nodes is {nodes}; give a number of 1 or more, or auto.")
    indices = isinstance(devices, list) and devices and all(type(index) is int and index >= 0 for index in devices)
    count = type(devices) is int and devices >= 1
    if not (devices == "auto" or count or indices):
        raise UserError(
            f"strategy.devices is {devices}; give a number of 1 or more, a list of device indices, or auto."
        )


def _check_by_building(config: Config) -> None:
    """The ranges of the objective's settings and the names of the optimizer's; last, because both import torch."""
    from mapolab import objectives

    objectives.build(**config["objective"])
    check_optimizer(config["optimizer"])
