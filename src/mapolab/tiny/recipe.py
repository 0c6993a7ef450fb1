"""``mapolab train experiment=tiny_base``: everything the package ships for the tiny twin, made from the artwork.

The run folder receives the layout of the package's assets (tiny_twin/, emoji/pairs, emoji/prompts, emoji/scorers) and
report.json: data, steps, seconds, final losses and accuracies. Each stage leaves files behind; the same command again
skips what is there, and continues the base's training from its last saved state.
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save

from mapolab import files
from mapolab.config.identity import run_folder
from mapolab.errors import UserError
from mapolab.models.pipeline_folder import PipelineFolder
from mapolab.output import TINY_BASE, OutputFolder
from mapolab.tiny.autoencoder import (
    build_autoencoder,
    other_concepts,
    picture_batch,
    psnr,
    reconstruction_loss,
    set_scaling_factor,
)
from mapolab.tiny.base import BaseTrainer, BaseTraining, encode_examples
from mapolab.tiny.classifiers import generator_rows, train_concept, train_style
from mapolab.tiny.judges import write_palette, write_pixel_statistics
from mapolab.tiny.networks import build_pipeline
from mapolab.tiny.pairs import write_pairs, write_prompts
from mapolab.tiny.subject import write_subject, write_subject_pairs, write_subject_prompts
from mapolab.tiny.tasks import write_dishes, write_task_pairs, write_task_prompts
from mapolab.training.folders import FolderWriter, sweep

SAVE_EVERY = 500


@dataclass(frozen=True)
class TinyBaseConfig:
    """The ``tiny_base`` block of the config; conf/experiment/tiny_base.yaml explains each key."""

    vae_steps: int
    vae_batch_size: int
    vae_learning_rate: float
    examples: int
    steps: int
    batch_size: int
    learning_rate: float
    caption_dropout: float
    ema_decay: float
    style_pictures: int
    style_steps: int
    concept_pictures: int
    concept_steps: int
    left_out_steps: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise UserError(f"tiny_base.{field.name} is {value!r}; give a positive number.")
        for name in ("caption_dropout", "ema_decay"):
            if getattr(self, name) >= 1:
                raise UserError(f"tiny_base.{name} is {getattr(self, name)}; give a share below 1.")


def run(config: dict) -> Path:
    """Run every stage that has not been run in this folder; returns the run folder."""
    known = {field.name for field in fields(TinyBaseConfig)}
    given = config["tiny_base"] or {}
    if set(given) != known:
        raise UserError(f"The block tiny_base must hold exactly these keys: {', '.join(sorted(known))}.")
    settings, seed, folder = TinyBaseConfig(**given), config["seed"], run_folder(config)
    with OutputFolder(folder, TINY_BASE).locked():
        sweep(folder)
        _report(folder, {})  # it says whose the folder is
        _make(settings, seed, folder)
    print(f"The tiny twin lies in {folder}; its figures in {folder / 'report.json'}.")
    return folder


def _make(settings: TinyBaseConfig, seed: int, folder: Path) -> None:
    for stage in (_vae_stage, _base_stage, _scorer_stage):
        stage(settings, seed, folder)
    write_pairs(folder / "emoji" / "pairs", seed)
    write_task_pairs(folder / "emoji" / "pairs", seed)
    write_task_prompts(folder / "emoji" / "prompts")
    write_dishes(folder / "emoji" / "dishes", seed)
    write_prompts(folder / "emoji" / "prompts")
    write_subject(folder / "emoji" / "subject", seed)
    write_subject_prompts(folder / "emoji" / "prompts")
    write_subject_pairs(folder / "emoji" / "pairs" / "subject.parquet", folder / "tiny_twin", seed)


def _report(folder: Path, entries: dict) -> None:
    path = folder / "report.json"
    before = files.read_json(path) if path.exists() else {}
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    files.write_json(path, before | {"machine": machine} | entries)


def _vae_stage(settings: TinyBaseConfig, seed: int, folder: Path) -> None:
    if (folder / "vae" / "config.json").exists():
        return
    started, rows = time.monotonic(), other_concepts()
    torch.manual_seed(seed)
    vae = build_autoencoder().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=settings.vae_learning_rate, weight_decay=0, fused=True)
    rate, steps = settings.vae_learning_rate, settings.vae_steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        pictures = picture_batch(seed, step, settings.vae_batch_size, rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = reconstruction_loss(vae, pictures)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"vae step {step}/{steps} loss {loss.item():.4f}", flush=True)
    vae.eval()
    test = picture_batch(seed + 1, 0, 64, generator_rows())
    set_scaling_factor(vae, test)
    with FolderWriter(folder / "vae") as written:
        vae.save_pretrained(written)
    seconds = round(time.monotonic() - started)
    figures = {"loss": loss.item(), "psnr_unseen_concepts": psnr(vae, test), "seconds": seconds, "steps": steps}
    _report(folder, {"vae": figures})


def _base_stage(settings: TinyBaseConfig, seed: int, folder: Path) -> None:
    if (folder / "tiny_twin" / "model_index.json").exists():
        return
    vae = PipelineFolder(str(folder / "vae")).load(AutoencoderKL, "", torch.float32)
    torch.manual_seed(seed)
    pipeline = build_pipeline(vae)
    keys = ("steps", "batch_size", "learning_rate", "caption_dropout", "ema_decay")
    training = BaseTraining(**{key: getattr(settings, key) for key in keys}, seed=seed)
    trainer = BaseTrainer(pipeline, training, *encode_examples(vae, seed, settings.examples))
    state, seconds = folder / "base_state.safetensors", 0.0
    if state.exists():
        tensors = load_file(state)
        seconds = float(tensors.pop("seconds"))
        trainer.load_state(tensors)
    started, losses = time.monotonic(), []
    while trainer.step < settings.steps:
        losses.append(trainer.train_step())
        if trainer.step % 100 == 0:
            print(f"base step {trainer.step}/{settings.steps} loss {sum(losses[-100:]) / 100:.4f}", flush=True)
        if trainer.step % SAVE_EVERY == 0:
            _save_state(trainer, state, seconds + time.monotonic() - started)
    trainer.use_average()
    # Half precision halves the package; training starts from the same rounded weights for every objective.
    with FolderWriter(folder / "tiny_twin") as written:
        pipeline.to(torch.float16).save_pretrained(written)
    mean = sum(losses[-500:]) / max(1, len(losses[-500:]))
    elapsed = round(seconds + time.monotonic() - started)
    _report(folder, {"base": asdict(training) | {"examples": settings.examples, "loss": mean, "seconds": elapsed}})
    state.unlink(missing_ok=True)


def _save_state(trainer: BaseTrainer, path: Path, seconds: float) -> None:
    files.write_bytes(path, save(trainer.state() | {"seconds": torch.tensor(seconds)}))


def _scorer_stage(settings: TinyBaseConfig, seed: int, folder: Path) -> None:
    scorers = folder / "emoji" / "scorers"
    if (scorers / "report.json").exists():
        return
    scorers.mkdir(parents=True, exist_ok=True)
    vae = PipelineFolder(str(folder / "vae")).load(AutoencoderKL, "", torch.float32)
    style, style_report = train_style(vae, other_concepts(), settings.style_pictures, settings.style_steps)
    concept, concept_report = train_concept(
        vae, settings.concept_pictures, settings.concept_steps, settings.left_out_steps
    )
    style.save(scorers / "style.safetensors")
    concept.save(scorers / "concept.safetensors")
    write_palette(scorers / "palette.safetensors")
    write_pixel_statistics(scorers / "pixel_statistics.safetensors", vae)
    files.write_json(scorers / "report.json", style_report | concept_report)
    _report(folder, {"scorers": style_report | concept_report})
