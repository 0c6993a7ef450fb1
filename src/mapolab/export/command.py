"""`mapolab export`: a finished run's model in the wanted formats, with a model card; uploaded if asked to."""

import glob
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from mapolab.config.environment_values import as_typed, for_others
from mapolab.errors import UserError
from mapolab.evaluation.generation import add_token, load_pipeline
from mapolab.evaluation.models import EvaluatedModel, is_lora, model_of_run
from mapolab.export.card import model_card, token_use
from mapolab.export.folder import ExportFolder
from mapolab.export.formats import write_kohya, write_lora, write_pipeline, write_single_file, write_token, write_unet
from mapolab.files import write_json, write_text
from mapolab.models.learned_token import TOKEN_FILE
from mapolab.models.lora import kohya_fault
from mapolab.models.lora_files import LORA_FILE, read_lora
from mapolab.models.lora_reader import Lora
from mapolab.models.parts import MODELS
from mapolab.models.precision import DTYPES
from mapolab.models.weights import is_finite
from mapolab.run_files import read_manifest
from mapolab.texts import say

NEEDS_LORA = ("lora", "kohya")
LONGEST_NAME = 255 - len(".kohya.safetensors")  # bytes


def export(config: dict[str, Any]) -> Path:
    """Write the folder `to`, unless it is there; the same call after a kill begins anew, without what that one left.

    Raises UserError where the run has not what a format needs, for a folder that holds something else, and where the
    upload is refused.
    """
    run, target = Path(config["run"]), Path(config["to"])
    folder = ExportFolder(target)
    folder.output.check()
    model = model_of_run(run)
    _check_links(run, model.weights)
    model.check()
    run_config, sdxl = model.run, model.sdxl
    lora = read_lora(model.weights, sdxl.empty_models(), sdxl.pretrained) if is_lora(model.weights) else None
    formats, left_out = _formats(config["formats"], lora, run)
    _check_unet(formats, run_config["model"].get("lora"), run)
    if "single_file" in formats:
        _check_widths(model)
    name = config["name"] or folder.real.name
    _check_name(name)
    manifest = read_manifest(run)
    how = {"formats": formats, "dtype": config["dtype"], "name": name, "license": config["license"]}
    settings = {"model": model.fingerprint, "run": manifest.get("identity"), **how}
    with folder.locked():
        if folder.is_finished(settings):
            say(f"The export in {target} is finished.")
        else:
            shown, told = for_others(manifest, run_config), for_others(as_typed(run_config), run_config)
            with folder.written(settings) as written:
                _write(written, formats, model, lora, DTYPES[config["dtype"]], name)
                write_json(written / "run_manifest.json", shown)
                write_text(written / "run_config.yaml", yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
                card = model_card(run, told, shown, formats, config["license"], config["dtype"])
                write_text(written / "README.md", card)
            say("\n".join([f"Exported {', '.join(formats)} to {target}", *left_out, *token_use(run_config, formats)]))
    if config["push"]:
        _push(config["push"], target, folder.files(), config["private"])
    return target


def _check_links(run: Path, weights: Path) -> None:
    """Raise UserError for weights that lie elsewhere by a symbolic link: they would be exported as the run's own. The
    hub's cache keeps the files of a snapshot as links to its own folder `blobs`."""
    real = run.resolve()
    homes = [real, real.parent.parent / "blobs"] if real.parent.name == "snapshots" else [real]
    for path in (weights, *weights.rglob("*")):
        if not any(path.resolve().is_relative_to(home) for home in homes):
            raise UserError(
                f"{path} is a symbolic link out of {run}, to {path.resolve()}, which is no part of that run. Put the "
                "run's own weights there."
            )


def _check_name(name: str) -> None:
    """Raise UserError for a name whose file would be another one of the export, also on a disk that knows no case."""
    files = {f"{name}.safetensors".casefold(), f"{name}.kohya.safetensors".casefold()}
    if files & {LORA_FILE.casefold(), TOKEN_FILE.casefold()}:
        raise UserError(f"The file {name}.safetensors has another meaning in an export. Give another name=...")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise UserError(f"{name[:40]}... is too long to name the files after. Give a shorter name=...")


def _formats(wanted: Any, lora: Lora | None, run: Path) -> tuple[list[str], list[str]]:
    """The formats to write, and what to say of those that `auto` leaves out."""
    fault = kohya_fault(lora) if lora else None
    if wanted == "auto":
        if fault is None:
            return (["lora", "kohya"] if lora else ["pipeline"]), []
        instead = "formats=[single_file] holds the merged weights for the UIs, formats=[pipeline] for diffusers"
        return ["lora"], [f"- kohya is left out: {fault}; {instead}"]
    for name in wanted:
        if name in NEEDS_LORA and lora is None:
            raise UserError(
                f"formats={name} needs a run that trained a LoRA, but all of the UNet was trained in {run}. Use "
                "formats=[pipeline], [unet] or [single_file]."
            )
    if "kohya" in wanted and fault:
        raise UserError(
            f"formats=kohya cannot hold the LoRA of {run}: {fault}. Use formats=[lora], [pipeline] or [single_file]."
        )
    return list(wanted), []


def _check_unet(formats: list[str], lora: dict[str, Any] | None, run: Path) -> None:
    if "unet" in formats and "pipeline" not in formats and lora and lora["text_encoders"]:
        raise UserError(
            f"formats=unet holds the UNet alone, but adapters in the text encoders were trained in {run}, too. Use "
            "formats=[pipeline] or [lora]."
        )


def _check_widths(model: EvaluatedModel) -> None:
    first, second = (model.sdxl.parts.config(part)["hidden_size"] for part in ("text_encoder", "text_encoder_2"))
    if first == second:
        raise UserError(
            f"formats=single_file cannot hold this model: both text encoders of {model.sdxl.pretrained} are {first} "
            "wide, and diffusers tells the two in a single file apart by their widths. Use formats=[pipeline]."
        )


def _write(
    folder: Path, formats: list[str], model: EvaluatedModel, lora: Lora | None, dtype: torch.dtype, name: str
) -> None:
    """lora and kohya are the adapters as they are; the others hold all weights, adapters merged into them.

    A learned token is part of the pipeline, and a file beside the others.
    """
    weights = model.weights
    if "lora" in formats:
        write_lora(folder, weights, lora, dtype)
    if "kohya" in formats:
        unet_config = model.sdxl.empty_models()["unet"].config
        write_kohya(folder / f"{name}.kohya.safetensors", lora, unet_config, dtype)
    if (weights / TOKEN_FILE).is_file() and set(formats) - {"pipeline"}:
        write_token(folder, weights, dtype)
    if not set(formats) - set(NEEDS_LORA):
        return
    pipeline = load_pipeline(model, with_token=False)
    if lora:
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    pipeline.to(dtype=dtype)
    for part in MODELS:
        for tensor_name, tensor in getattr(pipeline, part).state_dict().items():
            if not is_finite(tensor):
                raise UserError(f"{tensor_name} of the {part} overflows in {dtype}. Export with dtype=float32.")
    if "single_file" in formats:
        write_single_file(folder / f"{name}.safetensors", pipeline, name)
    if "pipeline" in formats:
        add_token(pipeline, weights)  # last: no other format has room for one more row
        write_pipeline(folder, pipeline)
    elif "unet" in formats:
        write_unet(folder, pipeline)


def _push(repository: str, folder: Path, files: list[str], private: bool) -> None:
    """Upload these files of the folder, and nothing that somebody put beside them."""
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in files],
            commit_message="Export from mapolab",
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise UserError(
            f"The upload to {repository} failed ({type(error).__name__}: {' '.join(str(error).split())[:300]}). The "
            f"export itself is whole in {folder}. Log in with `hf auth login`, check the name owner/repository, and "
            f"upload it with `hf upload {repository} {folder}`."
        ) from None
    print(f"Uploaded to https://huggingface.co/{repository}", flush=True)
