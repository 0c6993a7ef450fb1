"""The models that an evaluation names: own runs, pipelines, UNets, LoRAs and published checkpoints."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError
from mapolab.evaluation.model_names import BASE, check_apart, folder_name, given_name, name_of
from mapolab.files import content_key
from mapolab.hashes import file_hashes
from mapolab.models.hub import fetch, is_hub_name
from mapolab.models.learned_token import TOKEN_FILE, learned_token
from mapolab.models.lora_files import check_lora, lora_file, lora_files
from mapolab.models.pipeline_folder import PipelineFolder
from mapolab.models.sdxl import SDXL
from mapolab.paths import BUILTIN, find_paths, resolve
from mapolab.run_files import RUN_FIX, read_config, read_manifest, read_status
from mapolab.runs import changed_parts, final_weights

SDXL_BASE = "stabilityai/stable-diffusion-xl-base-1.0"
PUBLISHED = "published:"
# Checkpoints of the papers, as their authors put them on the hub.
PUBLISHED_MODELS = {
    "sdxl": {"pretrained": SDXL_BASE},
    "diffusion_dpo": {"pretrained": SDXL_BASE, "unet": "mhdang/dpo-sdxl-text2image-v1"},
    "mapo": {"pretrained": SDXL_BASE, "unet": "mapo-t2i/mapo-beta"},
}
KEYS = (
    "name", "pretrained", "unet", "lora", "revision", "variant", "unet_revision", "unet_variant", "lora_revision",
    "vae", "vae_revision", "single_file_config",
)  # fmt: skip
# To be raised where the code draws another picture of the same files and settings.
DRAWING_VERSION = 2
# What of a UNet's config must be as in the base's: what goes into it and comes out.
FITTING = (
    "cross_attention_dim", "in_channels", "out_channels", "addition_embed_type", "addition_time_embed_dim",
    "projection_class_embeddings_input_dim", "time_cond_proj_dim",
)  # fmt: skip
MODEL_DEFAULTS = {"revision": None, "variant": None, "vae": None, "vae_revision": None}


@dataclass(frozen=True)
class EvaluatedModel:
    """Something that draws.

    folder: where its evaluations go. config: its blocks `model` and `diffusion`, as a run's config has them.
    weights: a folder with a UNet or LoRA in place of the base's, or a LoRA's file; None for the base itself.
    run: the run's whole config; None for other models. variant: of the UNet's files in `weights`. began: a hash of
    each part of the model that the run started from, as its manifest has them; None where it is not known.
    """

    label: str
    seed: int | None
    folder: Path
    config: dict[str, Any]
    weights: Path | None = None
    run: dict[str, Any] | None = None
    variant: str | None = None
    began: dict[str, str] | None = None

    @property
    def name(self) -> str:
        return self.label if self.seed is None else f"{self.label}, seed {self.seed}"

    @cached_property
    def sdxl(self) -> SDXL:
        """Raises UserError if this is no SDXL, before any weight is read."""
        return SDXL.from_config(self.config["model"], self.config.get("diffusion"))

    @property
    def own_unet(self) -> PipelineFolder | None:
        """The folder with a UNet in place of the base's, if there is one."""
        if self.weights is None or is_lora(self.weights):
            return None
        return PipelineFolder(str(self.weights), variant=self.variant, key="unet")

    @cached_property
    def fingerprint(self) -> str:
        """40 hex characters that name all bytes and settings that are read to draw with it, wherever they lie."""
        read = self.sdxl.identity(unet=self.own_unet is None)
        if self.own_unet:
            read["unet"] = self.own_unet.identity("")
        adapters = file_hashes(lora_files(self.weights)) if self.weights and not self.own_unet else []
        return content_key([DRAWING_VERSION, read, adapters, self.sdxl.scheduler_config()])

    def check(self) -> None:
        """Raise UserError for what cannot draw: each part of it must be whole, and what a run started from."""
        self.sdxl.check_parts(unet=self.own_unet is None)
        if changed := changed_parts(self.began, self.sdxl.files(unet=self.own_unet is None)):
            raise UserError(
                f"{self.name} started from other files than {self.sdxl.pretrained} has now: its {', '.join(changed)} "
                "has changed since. Put the files back; what they are now is no base of that run."
            )
        if self.run and learned_token(self.run["model"].get("lora")) and not (self.weights / TOKEN_FILE).is_file():
            raise UserError(f"The run in {self.folder} learned a token, but {self.weights / TOKEN_FILE} is gone.")
        if self.own_unet is not None:
            self._check_unet()
        elif self.weights is not None:
            check_lora(self.weights, self.sdxl)

    def _check_unet(self) -> None:
        self.own_unet.check(UNet2DConditionModel, "")
        defaults = inspect.signature(UNet2DConditionModel.__init__).parameters
        for key in FITTING:
            configs = self.own_unet.config(""), self.sdxl.parts.config("unet")
            found, wanted = (config.get(key, defaults[key].default) for config in configs)
            if found != wanted:
                raise UserError(
                    f"The UNet in {self.weights} does not fit {self.sdxl.pretrained}: its {key} is {found}, not "
                    f"{wanted}. Name the base that it was trained from (pretrained: ...)."
                )


def is_lora(weights: Path) -> bool:
    """Whether these weights are adapters: a LoRA's file or a folder without a model's config."""
    return weights.is_file() or not (weights / "config.json").is_file()


def config_of_finished_run(run: Path) -> dict[str, Any]:
    """The resolved config of the run in this folder. Raises UserError unless the run is finished."""
    if not (run / "manifest.json").is_file() or not (run / "config.yaml").is_file():
        raise UserError(
            f"{run} is not a run folder: it has no manifest.json and config.yaml. Give the folder that `train` named."
        )
    status = read_status(run)
    if status != "finished":
        raise UserError(f"The run in {run} is {status}, not finished. Give its `mapolab train` command again first.")
    if final_weights(run) is None:
        raise UserError(
            f"The run in {run} is finished, but its weights are gone: it has neither a folder unet nor lora with any. "
            "Put it back, or give its `mapolab train` command again, which goes on from its last checkpoint."
        )
    config = read_config(run)
    if "pretrained" not in config.get("model", {}):
        raise UserError(f"{run / 'config.yaml'} has no model.pretrained. {RUN_FIX}")
    return config


def find_models(named: str | list[Any], output_root: Path) -> list[EvaluatedModel]:
    """The models of `models=`, each once: run folders and patterns of them, `published:<name>`, a pipeline's folder,
    file or name on the hub, or a mapping of `KEYS`.

    Raises UserError for what is none of these, and for unfinished runs.
    """
    entries = [named] if isinstance(named, str | dict) else list(named or [])
    if not entries:
        raise UserError("models names nothing. Give run folders, pipelines or published checkpoints: models=[a,b].")
    models = [model for entry in entries for model in _models_of(entry, output_root)]
    check_apart(models)
    return list({model.folder.resolve(): model for model in models}.values())


def base_of(run: dict[str, Any], output_root: Path, began: dict[str, str] | None = None) -> EvaluatedModel:
    """The model that a run started from."""
    return replace(_plain(BASE, run["model"], output_root, run.get("diffusion")), began=began)


def _models_of(entry: Any, output_root: Path) -> list[EvaluatedModel]:
    if isinstance(entry, dict):
        return [_described(entry, output_root)]
    if not isinstance(entry, str) or not entry:
        raise UserError(f"models holds {entry!r}. Give a folder, a name on the hub, or a mapping such as {{unet: a}}.")
    if entry.startswith(PUBLISHED):
        return [_published(entry.removeprefix(PUBLISHED), output_root)]
    runs = [path for path in find_paths(entry) if (path / "config.yaml").is_file()]
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
    manifest = read_manifest(folder)
    weights, began = final_weights(folder), manifest.get("model_files")
    return EvaluatedModel(manifest["label"], manifest["seed"], folder, config, weights, config, began=began)


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
    for key in ("unet_revision", "unet_variant", "lora_revision"):
        if given.get(key) and not given.get(key[:4]):
            raise UserError(f"A model of models= has {key}, but no {key[:4]} that it is of. Leave it out.")
    own_keys = ("name", "unet", "lora", "unet_revision", "unet_variant", "lora_revision")
    model = {"pretrained": SDXL_BASE, **{key: value for key, value in given.items() if key not in own_keys}}
    own = given.get("unet") or given.get("lora")
    label = name_of(own or model["pretrained"]) if given.get("name") is None else given_name(given["name"])
    variant = given.get("unet_variant", given.get("variant")) if given.get("unet") else None
    return _plain(label, model, output_root, None, _weights(given, variant) if own else None, variant)


def _plain(
    label: str,
    model: dict[str, Any],
    output_root: Path,
    diffusion: dict | None,
    weights: Path | None = None,
    variant: str | None = None,
) -> EvaluatedModel:
    config = {"model": MODEL_DEFAULTS | model, "diffusion": diffusion or {}}
    model = EvaluatedModel(label, None, Path(), config, weights, variant=variant)
    folder = output_root / "models" / folder_name(label, model.fingerprint)
    return replace(model, folder=folder)


def _weights(given: dict[str, Any], variant: str | None) -> Path:
    """The folder of the UNet or LoRA, fetched if it was not, or the LoRA's file."""
    kind = "unet" if given.get("unet") else "lora"
    name = given[kind]
    path = Path(name).expanduser()
    if not path.exists():
        if not is_hub_name(name):
            raise UserError(f"{kind}={name} does not exist. Name a folder, a file or a name on the hub.")
        wanted = ["*.json", "*.safetensors"] + (["unet/*.json", "unet/*.safetensors"] if kind == "unet" else [])
        revision = given.get(f"{kind}_revision", given.get("revision"))
        path = fetch(name, revision, wanted, variant, f"models=[{{{kind}: ...}}]")
    if kind == "lora":
        return lora_file(path) if (path / "config.json").is_file() else path  # which would make it a UNet's folder
    if kind == "unet":
        path = path if (path / "config.json").is_file() else path / "unet"
        if not (path / "config.json").is_file():
            raise UserError(f"unet={name} is no UNet in diffusers' layout: it has no config.json, and no folder unet.")
    return path
