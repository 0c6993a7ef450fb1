"""The models that an evaluation names: own runs, pipelines, UNets, LoRAs and published checkpoints."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mapolab import files
from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError
from mapolab.evaluation.weights_hash import folder_hashes
from mapolab.models.hub import fetch, is_hub_name
from mapolab.models.lora_files import check_lora, lora_file
from mapolab.models.sdxl import SDXL
from mapolab.paths import BUILTIN, resolve

SDXL_BASE = "stabilityai/stable-diffusion-xl-base-1.0"
PUBLISHED = "published:"
# Checkpoints of the papers, as their authors put them on the hub.
PUBLISHED_MODELS = {
    "sdxl": {"pretrained": SDXL_BASE},
    "diffusion_dpo": {"pretrained": SDXL_BASE, "unet": "mhdang/dpo-sdxl-text2image-v1"},
    "mapo": {"pretrained": SDXL_BASE, "unet": "mapo-t2i/mapo-beta"},
}
KEYS = ("name", "pretrained", "unet", "lora", "revision", "variant", "vae", "vae_revision", "single_file_config")
MODEL_DEFAULTS = {"revision": None, "variant": None, "vae": None, "vae_revision": None}


@dataclass(frozen=True)
class EvaluatedModel:
    """Something that draws.

    folder: where its evaluations go. config: its blocks `model` and `diffusion`, as a run's config has them.
    weights: a folder with a UNet or LoRA in place of the base's, or a LoRA's file; None for the base itself.
    run: the run's whole config; None for other models.
    """

    label: str
    seed: int | None
    folder: Path
    config: dict[str, Any]
    weights: Path | None = None
    run: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.label if self.seed is None else f"{self.label}, seed {self.seed}"

    @cached_property
    def sdxl(self) -> SDXL:
        """Raises UserError if this is no SDXL, or its LoRA does not fit it, before any weight of it is read."""
        sdxl = SDXL.from_config(self.config["model"], self.config.get("diffusion"))
        if self.weights and is_lora(self.weights):
            check_lora(self.weights, sdxl)
        return sdxl

    @cached_property
    def fingerprint(self) -> str:
        """Names the weights, wherever they lie, and what else of the config decides a picture."""
        unet = [] if self.weights and not is_lora(self.weights) else self.sdxl.parts.identity("unet")
        own = folder_hashes(self.weights) if self.weights else []
        # The precision that trained it is not the one that it is drawn in.
        encoders = replace(self.sdxl, encoder_dtype="float32", vae_dtype="float32").encoder_identity
        return files.short_hash([*unet, *own, encoders, self.sdxl.scheduler_config()])


def is_lora(weights: Path) -> bool:
    """Whether these weights are adapters: a LoRA's file or a folder without a model's config."""
    return weights.is_file() or not (weights / "config.json").is_file()


def final_weights(run: Path) -> Path | None:
    """The folder of a finished run's weights: `unet/` or `lora/`; None if it has neither."""
    return next((run / name for name in ("unet", "lora") if (run / name).is_dir()), None)


def config_of_finished_run(run: Path) -> dict[str, Any]:
    """The resolved config of the run in this folder. Raises UserError unless the run is finished."""
    if not (run / "manifest.json").is_file() or not (run / "config.yaml").is_file():
        raise UserError(
            f"{run} is not a run folder: it has no manifest.json and config.yaml. Give the folder that `train` named."
        )
    status = files.read_json(run / "manifest.json")["status"]
    if status != "finished":
        raise UserError(f"The run in {run} is {status}, not finished. Give its `mapolab train` command again first.")
    if final_weights(run) is None:
        raise UserError(
            f"The run in {run} is finished, but its weights are gone: it has neither a folder unet nor lora. Put it "
            "back, or remove the run's folder and train it again."
        )
    return OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)


def find_models(named: str | list[Any], output_root: Path) -> list[EvaluatedModel]:
    """The models of `models=`, each once: run folders and patterns of them, `published:<name>`, a pipeline's folder,
    file or name on the hub, or a mapping of `KEYS`.

    Raises UserError for what is none of these, and for unfinished runs.
    """
    entries = [named] if isinstance(named, str | dict) else list(named or [])
    if not entries:
        raise UserError("models names nothing. Give run folders, pipelines or published checkpoints: models=[a,b].")
    models = [model for entry in entries for model in _models_of(entry, output_root)]
    return list({model.folder.resolve(): model for model in models}.values())


def base_of(run: dict[str, Any], output_root: Path) -> EvaluatedModel:
    """The model that a run started from."""
    return _plain("base", run["model"], output_root, run.get("diffusion"))


def _models_of(entry: Any, output_root: Path) -> list[EvaluatedModel]:
    if isinstance(entry, dict):
        return [_described(entry, output_root)]
    if not isinstance(entry, str) or not entry:
        raise UserError(f"models holds {entry!r}. Give a folder, a name on the hub, or a mapping such as {{unet: a}}.")
    if entry.startswith(PUBLISHED):
        return [_published(entry.removeprefix(PUBLISHED), output_root)]
    runs = [Path(match) for match in sorted(glob.glob(entry)) if (Path(match) / "config.yaml").is_file()]
    if runs:
        return [model_of_run(folder) for folder in runs]
    path = Path(resolve(entry))
    if (path / "manifest.json").is_file() and not path.name.startswith("base-"):
        config_of_finished_run(path)  # says what is wrong with it
    pipeline = (path / "model_index.json").is_file() or (path.suffix == ".safetensors" and path.is_file())
    below_ours = path.parent.resolve() == output_root.resolve()  # a run that is not there reads like a name on the hub
    if entry.startswith(BUILTIN) or pipeline or (is_hub_name(entry) and not path.exists() and not below_ours):
        return [_described({"pretrained": entry}, output_root)]
    raise UserError(
        f"models={entry} is no finished run, no pipeline (a folder with model_index.json, a .safetensors file, or a "
        "name on the hub, owner/name) and no pattern that finds runs. A UNet or LoRA alone is given with its base: "
        "models=[{name: mine, pretrained: <base>, unet: <folder>}]."
    )


def model_of_run(folder: Path) -> EvaluatedModel:
    """Raises UserError unless the run in this folder is finished, with its weights."""
    config = config_of_finished_run(folder)
    manifest = files.read_json(folder / "manifest.json")
    return EvaluatedModel(manifest["label"], manifest["seed"], folder, config, final_weights(folder), config)


def _published(name: str, output_root: Path) -> EvaluatedModel:
    if name not in PUBLISHED_MODELS:
        known = ", ".join(PUBLISHED + known for known in PUBLISHED_MODELS)
        raise UserError(f"There is no {PUBLISHED}{name}.{did_you_mean(name, PUBLISHED_MODELS)} There are {known}.")
    return _described({"name": f"{PUBLISHED}{name}", **PUBLISHED_MODELS[name]}, output_root)


def _described(given: dict[str, Any], output_root: Path) -> EvaluatedModel:
    """A mapping of `KEYS`. Raises UserError for other keys, or both a UNet and a LoRA."""
    if unknown := [key for key in given if key not in KEYS]:
        hint = did_you_mean(str(unknown[0]), KEYS)
        raise UserError(f"A model of models= has no key {unknown[0]}.{hint} The keys: {', '.join(KEYS)}.")
    if given.get("unet") and given.get("lora"):
        raise UserError("A model of models= has both unet and lora. Fuse them elsewhere, or give one.")
    model = {
        "pretrained": SDXL_BASE,
        **{key: value for key, value in given.items() if key not in ("name", "unet", "lora")},
    }
    own = given.get("unet") or given.get("lora")
    label = _label(given.get("name") or own or model["pretrained"])
    return _plain(label, model, output_root, None, _weights(given) if own else None)


def _plain(
    label: str, model: dict[str, Any], output_root: Path, diffusion: dict | None, weights: Path | None = None
) -> EvaluatedModel:
    config = {"model": MODEL_DEFAULTS | model, "diffusion": diffusion or {}}
    unplaced = EvaluatedModel(label, None, Path(), config, weights)
    folder = output_root / "models" / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', label)}-{unplaced.fingerprint}"
    return EvaluatedModel(label, None, folder, config, weights)


def _label(name: str) -> str:
    """A name without spaces; of a path, its last part."""
    path = Path(str(name).removeprefix(BUILTIN))
    last = path.name if str(name).startswith(("/", ".", "~")) or path.exists() else str(name).removeprefix(BUILTIN)
    return "-".join(last.removesuffix(".safetensors").split())


def _weights(given: dict[str, Any]) -> Path:
    """The folder of the UNet or LoRA, fetched if it was not, or the LoRA's file."""
    kind = "unet" if given.get("unet") else "lora"
    name = given[kind]
    path = Path(name).expanduser()
    if not path.exists():
        if not is_hub_name(name):
            raise UserError(f"{kind}={name} does not exist. Name a folder, a file or a name on the hub.")
        wanted = ["*.json", "*.safetensors"] if kind == "lora" else ["config.json", "*.safetensors", "unet/*"]
        path = fetch(name, given.get("revision"), wanted, given.get("variant"), f"models=[{{{kind}: ...}}]")
    if kind == "lora":
        return lora_file(path) if (path / "config.json").is_file() else path  # which would make it a UNet's folder
    if kind == "unet":
        path = path if (path / "config.json").is_file() else path / "unet"
        if not (path / "config.json").is_file():
            raise UserError(f"unet={name} is no UNet in diffusers' layout: it has no config.json, and no folder unet.")
    return path
