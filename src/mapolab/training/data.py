"""From a run's config to its data: what must fit together, and the LightningDataModule."""

from pathlib import Path
from typing import Any

from mapolab.config.identity import samples_per_step
from mapolab.data.datamodule import LoaderSettings, PairDataModule
from mapolab.data.draw import Draw
from mapolab.data.hygiene import check_split
from mapolab.data.order import Selection
from mapolab.data.prepared.spec import CacheSpec
from mapolab.data.records import TIE, Source
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError
from mapolab.evaluation.prompts import held_out
from mapolab.models.sdxl import SDXL

STREAMING_WINDOW = 1024  # rows shuffled together, where the config leaves the choice to us and no cache is there


def cache_folder(config: dict[str, Any]) -> Path:
    """Where prepared caches, indices and fetched data lie: shared by all runs."""
    return Path(config["data"]["cache_folder"] or Path(config["output_root"]) / ".cache")


def open_data(config: dict[str, Any], objective: Any) -> Source:
    """Find and index the data. Raises UserError where it does not hold what the objective and the settings need."""
    data, name = config["data"], config["objective"]["name"]
    source = open_source(data["path"], data["split"], data["revision"], cache_folder(config), data["download_cache_gb"])
    singles = source.images_per_row == 1
    if singles and not objective.takes_single_images:
        raise UserError(
            f"The objective {name} compares chosen with rejected images, but {data['path']} has single images. Use "
            "objective=diffusion_kto or objective=sft, or data with pairs."
        )
    if data["ties"] == "keep" and not objective.uses_ties:
        raise UserError(f"The objective {name} cannot use ties. Set data.ties=drop, or use objective=diffusion_dpo.")
    _check_noise(objective, config)
    if objective.needs_soft_labels:
        _check_probabilities(config, source)
    if singles and name == "sft" and (data["label_flip_probability"] or data["label_noise_probability"]):
        raise UserError(
            "SFT uses liked single images only, so there is no label to change. Set data.label_flip_probability and "
            "data.label_noise_probability to 0, or use data with pairs."
        )
    if singles and data["micro_conditioning"] == "shared":
        raise UserError(
            f"data.micro_conditioning=shared gives both images of a pair the size of the first one, but {data['path']} "
            "has single images. Set data.micro_conditioning=fixed, or own."
        )
    if singles and objective.needs_rejected:
        _check_classes(data["path"], source)
    _check_weights(data, source)
    _check_size(config, sum(source.block_sizes))
    return source


def _check_classes(path: str, source: Source) -> None:
    """Liked and disliked images must both be there; looks no further than it takes to see one of each."""
    seen: set[float] = set()
    for block in range(len(source.block_sizes)):
        seen |= {label for label in source.labels(block).tolist() if label in (0.0, 1.0)}
        if len(seen) == 2:
            return
    lacking = "disliked (label_0 of 0)" if 1.0 in seen else "liked (label_0 of 1)"
    raise UserError(
        f"{path} has single images of which none is {lacking}: Diffusion-KTO learns from both kinds. Add some, "
        "or use objective=sft for liked images alone."
    )


def _check_probabilities(config: dict[str, Any], source: Source) -> None:
    """Some label must be neither certain nor a tie; looks at the first rows that are kept together."""
    first, path, name = source.labels(0), config["data"]["path"], config["objective"]["name"]
    if not ((first > 0) & (first < 1) & (first != TIE)).any():
        raise UserError(
            f"The objective {name} learns from how sure a scorer is of each pair, but the labels of {path} are "
            "certain: it would be Diffusion-DPO with another beta. Have them judged: mapolab make-pairs "
            f"recipe=smoothed labels=soft data_path={path} ranked_by=[pickscore] output_dir=smoothed; then train with "
            "data.path=smoothed."
        )


def _check_weights(data: dict[str, Any], source: Source) -> None:
    if data["weights"] == "column" and not source.has_weights:
        raise UserError(
            f"data.weights=column, but {data['path']} has no column weight. Add one, or set data.weights=none."
        )
    if data["weights"] == "per_prompt" and source.has_weights:
        raise UserError(
            f"{data['path']} has a column weight, which takes the place of the prompts' counts. Set "
            "data.weights=column, or none."
        )


def _check_size(config: dict[str, Any], rows: int) -> None:
    """An optimizer step must not need more pairs than there are, as far as the number of processes is known."""
    accumulation, batch = config["trainer"]["gradient_accumulation"], config["data"]["batch_size"]
    if (step := samples_per_step(config) or batch * accumulation) > rows:
        raise UserError(
            f"An optimizer step takes {step} pairs (data.batch_size {batch} x trainer.gradient_accumulation "
            f"{accumulation} x {step // batch // accumulation} processes), but {config['data']['path']} has only "
            f"{rows} rows. Make one of them smaller."
        )


def _check_noise(objective: Any, config: dict[str, Any]) -> None:
    """A method that is nothing but its noise must not run without it."""
    wanted, noise = objective.needs_inversion, config["diffusion"]["noise"]
    if wanted is not None and noise == "gaussian":
        raise UserError(
            f"The objective {config['objective']['name']} learns from inverted noise, but diffusion.noise=gaussian. "
            f"Use diffusion={wanted}, or objective=diffusion_dpo."
        )


def check_held_out(config: dict[str, Any], source: Source) -> str | None:
    """Refuse data that shares prompts or images with what the run will be evaluated on.

    Returns a note for the manifest where data.allow_overlap lets it pass.
    """
    evaluation = config["evaluation"]
    prompts, image_ids = held_out(
        evaluation["prompts"], evaluation["split"], evaluation["revision"], cache_folder(config)
    )
    if not prompts:
        return None
    kept_in = cache_folder(config) / "overlap"
    return check_split(source, prompts, image_ids, config["data"]["allow_overlap"], kept_in)


def check_captions(config: dict[str, Any], source: Source, token: str) -> None:
    """Raise UserError where no caption holds the token that is to be learned: its embedding would never be used."""
    captions = (text.caption for block in range(len(source.block_sizes)) for text in source.texts(block))
    if not any(token in caption.lower() for caption in captions if caption is not None):
        raise UserError(
            f"model.lora.learned_token={token}, but no caption of {config['data']['path']} holds it. Write it into the "
            f"captions in the subject's place, such as 'a {token} on a beach', or correct the token."
        )


def held_out_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the validation pairs as its data, as they are: nothing flipped, no label changed."""
    data = config["data"]
    changed = {
        "path": data["validation_path"] or data["path"],
        "split": data["validation_split"],
        "shuffle_window": "all",
        "num_workers": 0,
        "flip_probability": 0.0,
        "label_flip_probability": 0.0,
        "label_noise_probability": 0.0,
    }
    if data["validation_path"]:
        changed["revision"] = None
    # An optimizer step has no meaning here: one forward pass must find its pairs.
    single = {"trainer": config["trainer"] | {"gradient_accumulation": 1}}
    return config | single | {"data": data | changed}


def cache_spec(config: dict[str, Any], source: Source, sdxl: SDXL) -> CacheSpec:
    """The cache that a run with this config trains from."""
    data = config["data"]
    return CacheSpec(
        data_fingerprint=source.fingerprint,
        encoder_identity=sdxl.encoder_identity,
        resolution=data["resolution"],
        aspect_buckets=data["aspect_buckets"],
        both_orientations=data["flip_probability"] > 0,
        with_std=data["vae_posterior"] == "sample",
        dtype=data["cache_dtype"],
    )


def build_datamodule(config: dict[str, Any], objective: Any, source: Source, sdxl: SDXL) -> PairDataModule:
    """The data module of a run."""
    data = config["data"]
    singles = source.images_per_row == 1
    sides = ("chosen", "rejected") if objective.needs_rejected and not singles else ("chosen",)
    # Of single images SFT learns the liked ones; methods with two sides take both kinds.
    selection = Selection(ties=data["ties"] == "keep", zeros=not singles or objective.needs_rejected)
    draw = Draw(
        config["seed"],
        sides,
        data["flip_probability"],
        data["label_flip_probability"],
        data["label_noise_probability"],
        objective.uses_soft_labels,
        data["micro_conditioning"],
    )
    settings = LoaderSettings(
        batch_size=data["batch_size"],
        resolution=data["resolution"],
        window=_window(data),
        cache=cache_spec(config, source, sdxl) if data["cache"] else None,
        num_workers=data["num_workers"],
        weighted=data["weights"] != "none",
        fixed_forward=objective.has_batch_statistic or data["aspect_buckets"],
    )
    return PairDataModule(source, sdxl, selection, draw, settings, cache_folder(config))


def _window(data: dict[str, Any]) -> int | None:
    window = data["shuffle_window"]
    if window == "auto":
        return None if data["cache"] else STREAMING_WINDOW
    return None if window == "all" else window
