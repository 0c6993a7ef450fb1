"""`mapolab train`: from a resolved config to a finished run folder."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import transformers
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mapolab import objectives
from mapolab.config.identity import run_folder
from mapolab.config.instantiate import instantiate
from mapolab.config.printing import print_tree
from mapolab.data.records import Source
from mapolab.diffusion.timesteps import Timesteps
from mapolab.errors import Interrupted, RunError, UserError
from mapolab.models.lora import check_targets
from mapolab.models.saved import folder_name, write_weights
from mapolab.models.sdxl import SDXL
from mapolab.runs import RunFolder, label, timestamp
from mapolab.sweeps.folder import RECORD
from mapolab.training.build import build_module, reference_kind
from mapolab.training.checkpoint import FolderCheckpointIO, FolderWriter
from mapolab.training.cluster import NoSignalHandlers, SameStep, cluster_environment
from mapolab.training.cpu import tune_cpu
from mapolab.training.data import build_datamodule, check_held_out, open_data
from mapolab.training.ema import ExponentialMovingAverage
from mapolab.training.metrics import MetricsFile, StepMetrics, summary
from mapolab.training.progress import progress_callbacks
from mapolab.training.replaced import BrokenRows
from mapolab.training.requeue import Requeue
from mapolab.training.resume import CheckpointFolder
from mapolab.training.saving import SaveAndStop
from mapolab.training.stopping import StopRequest
from mapolab.training.strategies import build_strategy, check_options

# Lightning's advice that does not apply here, with the reason.
IRRELEVANT_WARNINGS = (
    ".*`srun` command is available.*",  # a run outside of a job, on a machine that has Slurm
    ".*does not have many workers.*",  # batches come from memory
    ".*dataloader is not resumable.*",  # it is: it starts at the checkpoint's position
    ".*smaller than the logging interval.*",  # metrics are written by StepMetrics
    ".*module\\(s\\) in eval mode at the start of training.*",  # dropout-free; text encoders stay as they were
    ".*isinstance\\(treespec, LeafSpec\\).*",  # between Lightning and torch
)


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
            print(f"The run in {folder.path} is finished.")
        else:
            _train_as_owner(config, folder, stop, requeue)
    return folder.path


def _train_as_helper(config: dict[str, Any], folder: RunFolder, stop: StopRequest) -> None:
    """Another rank's part. Rank 0 keeps the folder; under srun and torchrun all start at once, so each looks whether
    there is anything to do: nobody would come to meet it."""
    folder.check(config)
    if not folder.finished:
        with quiet_libraries():
            _fit(config, prepare(config), folder.path, stop)


def _train_as_owner(config: dict[str, Any], folder: RunFolder, stop: StopRequest, requeue: Requeue | None) -> None:
    """Fit, with the manifest telling at any time how the run stands."""
    if config["trainer"]["progress"] != "off":
        if RECORD not in os.environ:  # a sweep would show it for each job
            print_tree(config)
        print(f"Run folder: {folder.path}", flush=True)
    # Before the folder is claimed: a mistake found here can be corrected with the same output_dir.
    parts = prepare(config)
    if parts.objective.needs_reference and config["trainer"]["progress"] != "off":
        print(f"Reference: {reference_kind(config).replace('_', ' ')}", flush=True)
    folder.claim(config)
    folder.update(
        data_fingerprint=parts.source.fingerprint,
        broken_files=[asdict(item) for item in parts.source.broken_files],
        notes=[*parts.notes, *_notes(config, parts)],
    )
    CheckpointFolder(folder.path / "checkpoints").sweep()
    status, failure = "failed", None
    try:
        with quiet_libraries():
            _fit(config, parts, folder.path, stop, requeue)
        status = "finished"
    except Interrupted:
        status = "preempted" if requeue and requeue.accepted else "interrupted"
        raise
    except Exception as error:
        failure = str(error) if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        figures = summary(MetricsFile(folder.path / "metrics.csv").rows())
        finished = timestamp() if status == "finished" else None
        folder.update(status=status, failure=failure, finished=finished, **figures)


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
    source = open_data(config, objective)
    note = check_held_out(config, source)
    sdxl = SDXL.from_config(config["model"], config["diffusion"])
    Timesteps.from_config(config["diffusion"], sdxl.load_scheduler().config.num_train_timesteps)
    if config["model"]["lora"]:
        check_targets(config["model"]["lora"], sdxl.parts.config("unet"))
    return Parts(objective, source, sdxl, (note,) if note else ())


def _fit(
    config: dict[str, Any], parts: Parts, path: Path, stop: StopRequest, requeue: Requeue | None = None
) -> None:
    """Continue from the newest sound checkpoint if there is one, train, write the final weights."""
    settings = config["trainer"]
    pl.seed_everything(config["seed"], verbose=False)
    module = build_module(config, parts.objective, parts.sdxl)
    checkpoints = CheckpointFolder(path / "checkpoints")
    metrics = StepMetrics(None if rank_zero_only.rank else MetricsFile(path / "metrics.csv"), settings["log_every"])
    ema = ExponentialMovingAverage(settings["ema_decay"], settings["ema_on_cpu"]) if settings["ema_decay"] else None
    shown = "off" if rank_zero_only.rank else settings["progress"]
    display = progress_callbacks(shown, metrics, label(config["objective"]), settings["log_every"])
    saving = SaveAndStop(checkpoints, settings["checkpoint_every"], settings["keep_checkpoints"], stop, requeue)
    datamodule = build_datamodule(config, parts.objective, parts.source, parts.sdxl)
    broken = BrokenRows(path / "broken_rows.csv", config["data"]["max_broken_share"], parts.source)
    broken.check_files()
    callbacks = [callback for callback in (SameStep(), ema, metrics, *display, broken, saving) if callback is not None]
    trainer = make_trainer(config, path, callbacks)
    trainer.fit(module, datamodule, ckpt_path=checkpoints.newest_sound(set_aside=not rank_zero_only.rank))
    state = trainer.strategy.lightning_module_state_dict()  # by all ranks: under FSDP each holds a part
    if trainer.is_global_zero:
        weights = ema.weights if ema else {name: state[name] for name in module.trained_names}
        about = module.model.about(module.trained_names)
        with FolderWriter(path / folder_name(about)) as target:
            write_weights(target, weights, about)


def make_trainer(config: dict[str, Any], path: Path, callbacks: list[Callback]) -> Trainer:
    """Lightning's Trainer for this config. Raises UserError for an accelerator or strategy that this machine lacks."""
    settings = config["trainer"]
    try:
        trainer = Trainer(
            accelerator=config["strategy"]["accelerator"],
            strategy=build_strategy(config["strategy"]),
            devices=config["strategy"]["devices"],
            num_nodes=config["strategy"]["num_nodes"],
            precision=settings["precision"],
            max_steps=settings["max_steps"],
            accumulate_grad_batches=settings["gradient_accumulation"],
            gradient_clip_val=settings["gradient_clip_norm"],
            callbacks=callbacks,
            plugins=[FolderCheckpointIO(), *cluster_environment()],
            logger=_logger(config["logger"], path) if config["logger"] else False,
            default_root_dir=path,
            use_distributed_sampler=False,  # positions are dealt out to ranks by MicroSteps
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError) as error:
        raise UserError(f"Lightning refuses these settings: {error} Change strategy or trainer.") from None
    trainer._signal_connector = NoSignalHandlers(trainer)
    return trainer


def _logger(logger: dict[str, Any], path: Path) -> Any:
    """The tracker's logger, with its files inside the run folder."""
    # W&B would otherwise count every continued run as a new one.
    same_run = {"id": path.name, "resume": "allow"} if logger["_target_"].endswith("WandbLogger") else {}
    return instantiate(logger, save_dir=str(path), **same_run)


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


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence notices about devices, tips, a bar for every file read, and the warnings that do not apply here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in IRRELEVANT_WARNINGS:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        transformers.utils.logging.disable_progress_bar()
        try:
            yield
        finally:
            transformers.utils.logging.enable_progress_bar()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
