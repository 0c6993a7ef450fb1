"""Lightning's Trainer and loggers for a run's config, without the advice that does not apply to it."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import transformers
from lightning.pytorch import Callback, Trainer

from mapolab.config.instantiate import instantiate
from mapolab.config.rollout import passes_per_step
from mapolab.errors import UserError
from mapolab.runs import RunFolder
from mapolab.training.checkpoint import FolderCheckpointIO
from mapolab.training.cluster import NoSignalHandlers, cluster_environment
from mapolab.training.strategies import build_strategy

# Lightning's advice that does not apply here, with the reason.
IRRELEVANT_WARNINGS = (
    ".*defined a `validation_step`.*",  # training.validation calls it
    ".*`srun` command is available.*",  # a run outside of a job, on a machine that has Slurm
    ".*does not have many workers.*",  # batches come from memory
    ".*dataloader is not resumable.*",  # it is: it starts at the checkpoint's position
    ".*smaller than the logging interval.*",  # metrics are written by StepMetrics
    ".*module\\(s\\) in eval mode at the start of training.*",  # dropout-free; text encoders stay as they were
    ".*isinstance\\(treespec, LeafSpec\\).*",  # between Lightning and torch
)


def make_trainer(config: dict[str, Any], path: Path, callbacks: list[Callback], step: int | None = None) -> Trainer:
    """Lightning's Trainer for this config. step: where a continued run stands.

    Raises UserError for an accelerator or strategy that this machine lacks.
    """
    settings = config["trainer"]
    try:
        trainer = Trainer(
            accelerator=config["strategy"]["accelerator"],
            strategy=build_strategy(config["strategy"]),
            devices=config["strategy"]["devices"],
            num_nodes=config["strategy"]["num_nodes"],
            precision=settings["precision"],
            max_steps=settings["max_steps"],
            accumulate_grad_batches=passes_per_step(config),
            gradient_clip_val=settings["gradient_clip_norm"],
            callbacks=callbacks,
            plugins=[
                FolderCheckpointIO(settings["checkpoint_in_background"], RunFolder(path).identity),
                *cluster_environment(),
            ],
            logger=_logger(config["logger"], path, step) if config["logger"] else False,
            default_root_dir=path,
            use_distributed_sampler=False,  # positions are dealt out to ranks by MicroSteps
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError) as error:
        raise UserError(f"Lightning refuses these settings: {error} Change strategy or trainer.") from None
    trainer._signal_connector = NoSignalHandlers(trainer)
    return trainer


def _logger(logger: dict[str, Any], path: Path, step: int | None) -> Any:
    """The tracker's logger, with its files inside the run folder; a continued run goes on in the same record."""
    keeps = {}
    if logger["_target_"].endswith("WandbLogger"):
        keeps = {"id": RunFolder(path).tracker_id(), "resume": "allow"}
    elif step is not None:
        keeps = {"purge_step": step}  # what was logged after the checkpoint is logged again
    return instantiate(logger, save_dir=str(path), **keeps)


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
