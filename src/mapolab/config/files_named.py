"""The start-up checks of what a config names on the disk: the run's folder, models, pairs, prompts."""

import os
from pathlib import Path
from typing import Any

from mapolab.errors import UserError
from mapolab.output import Kind, OutputFolder
from mapolab.paths import resolve


def check_output(folder: Path, kind: Kind) -> None:
    """What the command makes can be kept there: nothing else lies there, and it can be made or written to."""
    named = f"{kind.holds[:1].upper()}{kind.holds[1:]} cannot be kept in {folder}"
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise UserError(f"{named}: {existing} is a file. Change {kind.option}.")
    OutputFolder(folder, kind).check()
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{named}: {existing} is not writable. Change {kind.option}.")


def check_model(model: dict[str, Any]) -> None:
    """A file or folder must exist and be a pipeline; a name on the hub (owner/name) is left to the loader."""
    single = model["pretrained"].endswith(".safetensors")
    if single and not Path(model["pretrained"]).expanduser().is_file():
        raise UserError(f"model.pretrained={model['pretrained']} does not exist. Name a .safetensors file.")
    pipeline = "single_file_config" if single else "pretrained"
    for key, index in ((pipeline, "model_index.json"), ("vae", "config.json")):
        source = model[key]
        if source is None:
            continue
        folder = Path(resolve(source))
        if folder.is_dir():
            if not (folder / index).is_file():
                raise UserError(f"model.{key}={source} has no {index}, so it is no model in diffusers' layout.")
        elif source.startswith(("/", ".", "~")) or source.count("/") != 1:
            raise UserError(f"model.{key}={source} is neither a folder nor a name on the hub, which reads owner/name.")


def check_data(path: str, key: str = "data.path") -> None:
    """What can only be a path exists; URLs and names on the hub are left to the reader."""
    elsewhere = "://" in path or (path.count("/") == 1 and not path.startswith((".", "/", "~")))
    if not Path(resolve(path)).exists() and (path.lower().endswith(".parquet") or not elsewhere) and "://" not in path:
        raise UserError(
            f"{key}={path} does not exist. Name a parquet file, a folder of them or of image pairs, a URL, or a "
            "data set on the hub (owner/name)."
        )


def check_prompts(path: str | None, key: str = "evaluation.prompts") -> None:
    """The file of prompts of the later evaluation, if one is named, exists; a data set is left to its reader."""
    kinds = (".csv", ".tsv", ".txt", ".json", ".jsonl")
    if path is not None and Path(path).suffix.lower() in kinds and not Path(resolve(path)).is_file():
        raise UserError(f"{key}={path} does not exist. Name a CSV file with a column prompt.")


def check_run_folder(path: str) -> None:
    """A run's folder has a manifest."""
    if not (Path(path) / "manifest.json").is_file():
        raise UserError(
            f"{path} is not a run folder: it has no manifest.json. Give a folder that `mapolab train` named."
        )
