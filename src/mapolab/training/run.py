"""`mapolab train`: from a resolved config to a finished run folder."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mapolab import objectives
from mapolab.config.environment_values import as_typed, hide
from mapolab.config.identity import run_folder
from mapolab.config.printing import print_tree
from mapolab.data.records import Source
from mapolab.diffusion.timesteps import Timesteps
from mapolab.errors import Interrupted, RunError, UserError, disk_fault
from mapolab.evaluation.options import check_settings
from mapolab.evaluation.scorers.registry import check_scorers
from mapolab.job_record import RECORD
from mapolab.models.learned_token import check_token, learned_token
from mapolab.models.lora import check_targets
from mapolab.models.reference import MovingCopy
from mapolab.models.saved import folder_name, write_weights
from mapolab.models.sdxl import SDXL
from mapolab.paths import resolve
from mapolab.run_files import checksums
from mapolab.runs import RunFolder, label, run_identity, timestamp
from mapolab.training.base_module import BaseModule
from mapolab.training.build import build_module, reference_kind
from mapolab.training.cluster import SameStep
from mapolab.training.cpu import tune_cpu
from mapolab.training.data import build_datamodule, check_captions, check_held_out, held_out_config, open_data
from mapolab.training.ema import ExponentialMovingAverage, ReferenceFollows
from mapolab.training.folders import FolderWriter, sweep
from mapolab.training.metrics import MetricsFile, StepMetrics, summary
from mapolab.training.online.build import build_online, check_drawing
from mapolab.training.online.prompts import open_prompts
from mapolab.training.progress import progress_callbacks
from mapolab.training.replaced import BrokenRows
from mapolab.training.requeue import Requeue
from mapolab.training.resume import CheckpointFolder, step_of
from mapolab.training.saving import SaveAndStop
from mapolab.training.stopping import StopRequest
from mapolab.training.strategies import check_options, whole_state
from mapolab.training.trainer import make_trainer, quiet_libraries
from mapolab.training.validation import Validation


def train(config: dict[str, Any], stop: StopRequest | None = None, requeue: Requeue | None = None) -> Path:
    """Train, or continue, or find finished, the run that `config` (a plain resolved dict) describes.

    stop: who listens to signals; None: nobody outside of this call. requeue: what a stopped run asks Slurm for.
    Returns the run's folder. Raises UserError for what the user must change, NonFiniteError when training broke down,
    and Interrupted when it was asked to stop; the same call continues in all three cases.
    """
    if stop is None:
        with StopRequest().listening() as stop:
            return train(config, stop)
    tune_cpu()
    folder = RunFolder(run_folder(config))
    if rank_zero_only.rank:
        _train_as_helper(config, folder, stop)
        return folder.path
    with folder.locked():
        folder.check(config)
        if folder.finished:
            _check_base(config, folder)
            print(f"The run in {folder.path} is finished.")
        else:
            if folder.manifest().get("status") == "finished":
                print(
                    f"The run in {folder.path} was finished, but its weights are gone: it has neither a folder unet "
                    f"nor lora with any. It goes on from step {folder.last_saved_step()}.",
                    flush=True,
                )
            _train_as_owner(config, folder, stop, requeue)
    return folder.path


def _check_base(config: dict[str, Any], folder: RunFolder) -> None:
    """Refuse a finished run that began from another model, where the config's lies on this machine."""
    model = config["model"]
    if Path(resolve(model["pretrained"])).exists():
        folder.check_model(SDXL.from_config(model, config["diffusion"]).files())


def _train_as_helper(config: dict[str, Any], folder: RunFolder, stop: StopRequest) -> None:
    """Another rank's part. Rank 0 keeps the folder; under srun and torchrun all start at once, so each looks whether
    there is anything to do: nobody would come to meet it."""
    folder.check(config)
    if not folder.finished:
        parts = prepare(config)
        folder.check_model(parts.sdxl.files())
        with quiet_libraries():
            _fit(config, parts, folder, stop)


def _train_as_owner(config: dict[str, Any], folder: RunFolder, stop: StopRequest, requeue: Requeue | None) -> None:
    """Fit, with the manifest telling at any time how the run stands."""
    if config["trainer"]["progress"] != "off":
        if RECORD not in os.environ:  # a sweep would show it for each job
            print_tree(as_typed(config))
        print(f"Run folder: {folder.path}", flush=True)
    # Before the folder is claimed: a mistake found here can be corrected with the same output_dir.
    parts = prepare(config)
    if parts.objective.needs_reference and config["trainer"]["progress"] != "off":
        print(f"Reference: {reference_kind(config).replace('_', ' ')}", flush=True)
    files = parts.sdxl.files()
    folder.check_model(files)
    identity = folder.identity or run_identity(config, files)
    checkpoints = CheckpointFolder(folder.path / "checkpoints")
    checkpoints.check_identity(identity)
    folder.claim(config)
    folder.update(
        identity=identity,
        model_files=files,
        data_fingerprint=parts.source.fingerprint,
        broken_files=[asdict(item) for item in parts.source.broken_files],
        notes=[*parts.notes, *_notes(config, parts)],
    )
    checkpoints.sweep()
    sweep(folder.path)
    status, failure = "failed", None
    try:
        with quiet_libraries():
            _fit(config, parts, folder, stop, requeue)
        status = "finished"
    except Interrupted:
        status = "preempted" if requeue and requeue.accepted else "interrupted"
        raise
    except Exception as error:
        folder.output.lock.check()  # another process may have taken away what this one was writing
        failure = str(error) if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {error}"
        if fault := disk_fault(error):
            failure = f"The run in {folder.path} stopped; its last checkpoint is sound. {fault}"
            raise type(fault)(failure) from None
        raise
    finally:
        if not folder.output.lock.is_lost():
            _close(folder, status, failure and hide(failure, config))


def _close(folder: RunFolder, status: str, failure: str | None) -> None:
    """Note in the manifest how this stretch of the run ended."""
    figures = summary(MetricsFile(folder.path / "metrics.csv").rows())
    finished = timestamp() if status == "finished" else None
    try:
        noted = folder.manifest().get("checksums", {}) | (checksums(folder.path) if finished else {})
        folder.update(status=status, failure=failure, finished=finished, checksums=noted, **figures)
        if finished:  # they are for going on in the middle of a round
            shutil.rmtree(folder.path / "rollouts", ignore_errors=True)
    except OSError:
        if failure is None:
            raise
        # The reason is on its way to the user; a full disk must not hide it.


@dataclass(frozen=True)
class Parts:
    """What is checked before any model is loaded. notes: what of it a reader of the results should know."""

    objective: Any
    source: Source
    sdxl: SDXL
    notes: tuple[str, ...] = ()


def prepare(config: dict[str, Any]) -> Parts:
    """Build the objective, index the data, find the model. Raises UserError for what does not fit together."""
    if config["strategy"]["options"]:
        check_options(config["strategy"])
    objective = objectives.build(**config["objective"])
    draws_itself = objective.learns_from == "samples"
    source = open_prompts(config) if draws_itself else open_data(config, objective)
    note = check_held_out(config, source)
    sdxl = SDXL.from_config(config["model"], config["diffusion"])
    sdxl.check_parts()
    Timesteps.from_config(config["diffusion"], sdxl.load_scheduler().config.num_train_timesteps)
    if lora := config["model"]["lora"]:
        check_targets(lora, sdxl.parts.config("unet"))
        if token := learned_token(lora):
            check_token(token, lora["token_initial"], sdxl.load_tokenizers())
            check_captions(config, source, token)
    if draws_itself:
        check_drawing(config, sdxl)
    check_settings(config["evaluation"], [sdxl], "evaluation.")
    if config["evaluation"].get("after_training"):
        check_scorers(config["evaluation"])
    return Parts(objective, source, sdxl, (note,) if note else ())


def _fit(
    config: dict[str, Any], parts: Parts, folder: RunFolder, stop: StopRequest, requeue: Requeue | None = None
) -> None:
    """Continue from the newest sound checkpoint if there is one, train, write the final weights."""
    settings, path = config["trainer"], folder.path
    pl.seed_everything(config["seed"] % 2**32, verbose=False)  # more bits than that numpy's old generator has not
    module, datamodule = _build(config, parts, path)
    checkpoints = CheckpointFolder(path / "checkpoints")
    metrics = StepMetrics(None if rank_zero_only.rank else MetricsFile(path / "metrics.csv"), settings["log_every"])
    ema = ExponentialMovingAverage(settings["ema_decay"], settings["ema_on_cpu"]) if settings["ema_decay"] else None
    follows = ReferenceFollows(module.reference) if isinstance(module.reference, MovingCopy) else None
    shown = "off" if rank_zero_only.rank else settings["progress"]
    display = progress_callbacks(shown, metrics, label(config["objective"], config["rollout"]), settings["log_every"])
    validation = _validation(config, parts, path)
    saving = SaveAndStop(
        checkpoints, settings["checkpoint_every"], settings["keep_checkpoints"], stop, requeue, validation,
        None if rank_zero_only.rank else folder.output.lock,
    )  # fmt: skip
    broken = BrokenRows(path / "broken_rows.csv", config["data"]["max_broken_share"], parts.source)
    broken.check_files()
    callbacks = [
        callback
        for callback in (SameStep(), ema, follows, metrics, *display, broken, validation, saving)
        if callback is not None
    ]
    resumed = checkpoints.newest_sound(set_aside=not rank_zero_only.rank)
    trainer = make_trainer(config, path, callbacks, step_of(resumed) if resumed else None)
    trainer.fit(module, datamodule, ckpt_path=resumed)
    state = whole_state(trainer.strategy)  # by all ranks: under FSDP each holds a part
    if trainer.is_global_zero:
        weights = ema.weights if ema else {name: state[name] for name in module.trained_names}
        about = module.model.about(module.trained_names)
        folder.output.lock.check()
        with FolderWriter(path / folder_name(about)) as target:
            write_weights(target, weights, about)


def _build(config: dict[str, Any], parts: Parts, path: Path) -> tuple[BaseModule, pl.LightningDataModule]:
    """The run's modules, by what its objective learns from."""
    if parts.objective.learns_from == "samples":
        return build_online(config, parts.objective, parts.source, parts.sdxl, path)
    module = build_module(config, parts.objective, parts.sdxl)
    return module, build_datamodule(config, parts.objective, parts.source, parts.sdxl)


def _validation(config: dict[str, Any], parts: Parts, path: Path) -> Validation | None:
    """The look at held-out pairs, where the config asks for one."""
    settings = config["trainer"]
    if settings["validate_every"] is None:
        return None
    held_out = held_out_config(config)
    datamodule = build_datamodule(held_out, parts.objective, open_data(held_out, parts.objective), parts.sdxl)
    return Validation(path, datamodule, settings["validate_every"], settings["validation_pairs"], settings["keep_best"])


def _notes(config: dict[str, Any], parts: Parts) -> list[str]:
    """What a reader of the results should know about this run."""
    data, notes = config["data"], []
    if data["label_flip_probability"]:
        notes.append(f"labels flipped with probability {data['label_flip_probability']}")
    if data["label_noise_probability"]:
        notes.append(f"labels replaced by a coin toss with probability {data['label_noise_probability']}")
    if data["ties"] == "keep":
        notes.append("ties kept")
    if data["weights"] == "per_prompt":
        notes.append("each pair weighted by 1 / number of pairs of its prompt")
    if parts.objective.needs_reference:
        notes.append(f"reference: {reference_kind(config).replace('_', ' ')}")
    if config["trainer"]["ema_decay"]:
        notes.append(f"final weights are an average, decay {config['trainer']['ema_decay']}")
    return notes
