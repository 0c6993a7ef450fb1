"""The LightningModule: one forward pass over a batch of pairs, and the objective's loss."""

import contextlib
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from mapolab.data.datasets import Batch, encode_batch
from mapolab.diffusion.conditioning import drop_prompts, dropped
from mapolab.diffusion.errors import DenoisingTask, denoising_task, pair_errors, predict
from mapolab.diffusion.inversion import Inversion
from mapolab.diffusion.timesteps import Timesteps
from mapolab.models.encoder import Encoder
from mapolab.models.lora import adapters_off
from mapolab.models.prompts import encode_prompts
from mapolab.models.reference import Reference
from mapolab.models.trained import TrainedModel
from mapolab.streams import Stream, torch_seed
from mapolab.training.base_module import BaseModule


class AlignmentModule(BaseModule):
    """Trains a model with an objective.

    inversion: how each image's noise is found; None: it is drawn. reference: for objectives that need one. encoder: for
    batches that are not encoded yet; sample_posterior says how. prompt_dropout: the share of prompts left out, then
    replaced by empty_prompt (None: zeros). optimizer, schedule: blocks of the config.
    """

    def __init__(
        self,
        model: TrainedModel,
        scheduler: DDPMScheduler,
        objective: Any,
        seed: int,
        optimizer: dict[str, Any],
        schedule: dict[str, Any],
        timesteps: Timesteps | None = None,
        inversion: Inversion | None = None,
        reference: Reference | None = None,
        encoder: Encoder | None = None,
        sample_posterior: bool = False,
        prompt_dropout: float = 0.0,
        empty_prompt: tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__(model, scheduler, objective, seed, optimizer, schedule, reference, encoder)
        self.inversion = inversion
        self.timesteps = timesteps or Timesteps(0, scheduler.config.num_train_timesteps - 1)
        self.sample_posterior = sample_posterior
        self.prompt_dropout, self.empty_prompt = prompt_dropout, empty_prompt

    def on_fit_start(self) -> None:
        """Also let an objective with a batch statistic see all ranks."""
        super().on_fit_start()
        if self.trainer.world_size > 1:
            self.objective = self.objective.over_ranks(self.trainer.strategy.reduce)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The objective's loss of one forward pass, a scalar."""
        result = self._result(batch)
        self.note(batch_idx, batch["positions"], result)
        return result.loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss and the objective's logs on one batch, scalars; nothing is dropped and nothing remembered."""
        dropout, self.prompt_dropout = self.prompt_dropout, 0.0
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with torch.no_grad():
                result = self._result(batch)
        finally:
            self.prompt_dropout = dropout
            for module in training:
                module.training = True
        return {"loss": result.loss.float()} | {
            name: torch.as_tensor(value, device=result.loss.device).float() for name, value in result.logs.items()
        }

    def _result(self, batch: Batch) -> Any:
        """What the objective makes of a batch."""
        captions = batch.get("captions")
        if self.encoder is not None:
            batch = encode_batch(batch, self.encoder, self.seed, self.sample_posterior)
        batch = self._in_training_precision(batch)
        with self._adapter_dropout(batch["positions"]):
            task = self._task(self._with_prompts(batch, captions))
            if self.inversion is not None:
                task = self.inversion(task, self.unet, self.scheduler, self.seed, batch["positions"])
            prediction = predict(self.unet, task)
        reference = self._reference_prediction(batch, task, captions) if self.reference is not None else None
        weights = batch["weights"]
        if self.timesteps.weighting != "none":
            weights = weights * self.timesteps.weights(self.scheduler, task.timesteps[: len(weights)])
        sides, products = "rejected_latents" in batch, self.objective.needs_products
        return self.objective(
            pair_errors(prediction, task.target, reference, sides, products, batch["labels"], weights)
        )

    def _reference_prediction(self, batch: Batch, task: DenoisingTask, captions: list[str] | None) -> Tensor:
        """The reference reads prompts through the text encoders as they were, too."""
        text = self.model.text
        if text is not None:
            with torch.no_grad(), adapters_off(*text.models):
                read = self._task(self._with_prompts(batch, captions))
            prompts = {"prompt_embeds": read.prompt_embeds, "pooled_prompt_embeds": read.pooled_prompt_embeds}
            task = replace(task, **prompts)
        return self.reference.predict(task)

    def _task(self, batch: Batch) -> DenoisingTask:
        drawn_from = self.timesteps.first, self.timesteps.last
        return denoising_task(batch, self.scheduler, self.seed, "rejected_latents" in batch, drawn_from)

    def _with_prompts(self, batch: Batch, captions: list[str] | None) -> Batch:
        """The batch with embeddings from the trained text encoders, if they are trained; some prompts left out."""
        if self.model.text is not None:
            embeds, pooled = encode_prompts(self.model.text, captions)
            batch = batch | {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        if not self.prompt_dropout:
            return batch
        mask = dropped(self.seed, batch["positions"], self.prompt_dropout)
        names = "prompt_embeds", "pooled_prompt_embeds"
        empty = self.empty_prompt or (None, None)
        return batch | {name: drop_prompts(batch[name], at, mask) for name, at in zip(names, empty, strict=True)}

    def _in_training_precision(self, batch: Batch) -> Batch:
        """What was encoded in the step in float64 too, where everything else is."""
        if not self.is_double:
            return batch
        return {
            name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in batch.items()
        }

    def _adapter_dropout(self, positions: list[int]) -> contextlib.AbstractContextManager:
        """Dropout as a function of (seed, position), so that a resumed run draws the same."""
        if not self.model.has_dropout:
            return contextlib.nullcontext()
        return torch_seed(self.seed, Stream.LORA_DROPOUT, positions[0])
