"""The LightningModule: one forward pass over a batch of pairs, and the objective's loss."""

import contextlib
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from mapolab.config.instantiate import instantiate
from mapolab.data.datasets import Batch, encode_batch
from mapolab.diffusion.conditioning import drop_prompts, dropped
from mapolab.diffusion.errors import DenoisingTask, denoising_task, pair_errors, predict
from mapolab.diffusion.inversion import Inversion
from mapolab.diffusion.timesteps import Timesteps
from mapolab.errors import UserError
from mapolab.models.encoder import Encoder
from mapolab.models.lora import adapters_off
from mapolab.models.prompts import encode_prompts
from mapolab.models.reference import Reference
from mapolab.models.trained import TrainedModel
from mapolab.streams import Stream, torch_seed
from mapolab.training.gradients import clip_gradients, match_layout, release_gradients
from mapolab.training.record import StepRecord


class AlignmentModule(LightningModule):
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
        super().__init__()
        self.unet = model.unet.train()
        self.scheduler, self.objective, self.seed = scheduler, objective, seed
        self.optimizer_config, self.schedule_config = optimizer, schedule
        self.inversion = inversion
        self.timesteps = timesteps or Timesteps(0, scheduler.config.num_train_timesteps - 1)
        if model.text is not None:
            self.text_encoder, self.text_encoder_2 = model.text.models
        self.model = model
        # Plain attributes, not modules: neither belongs to the trained weights.
        self.reference, self.encoder, self.sample_posterior = reference, encoder, sample_posterior
        self.prompt_dropout, self.empty_prompt = prompt_dropout, empty_prompt
        self.trained_names = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        self.record = StepRecord()
        self.is_double = self.unet.dtype == torch.float64

    @property
    def strict_loading(self) -> bool:
        """A checkpoint of adapters lacks the base's weights; `on_load_checkpoint` has checked what it must hold."""
        return self.model.lora is None

    def trained_weights(self) -> dict[str, Tensor]:
        """The trained tensors by their names."""
        # FSDP puts a module of its own around each unit, and its name into the names.
        parameters = {name.replace("_fsdp_wrapped_module.", ""): item for name, item in self.named_parameters()}
        return {name: parameters[name] for name in self.trained_names}

    def on_fit_start(self) -> None:
        """Bring the frozen helpers to the device, and let an objective with a batch statistic see all ranks."""
        # Kept, because walking through the modules of a small UNet takes several percent of its step.
        self.trained = list(self.trained_weights().values())
        for helper in (self.reference, self.encoder):
            if helper is not None:
                helper.to(self.device)
        if self.trainer.world_size > 1:
            self.objective = self.objective.over_ranks(self.trainer.strategy.reduce)

    def on_train_start(self) -> None:
        """Lightning has restored the optimizer by now."""
        for optimizer in self.trainer.optimizers:
            if isinstance(optimizer, Optimizer):  # DeepSpeed's is none, and keeps its moments flat
                match_layout(optimizer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The objective's loss of one forward pass, a scalar."""
        result = self._result(batch)
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.record = StepRecord()
        self.record.add(batch["positions"], result.per_sample, result.logs)
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

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Measure the gradient, refuse it if it is not finite, clip it to a norm of `gradient_clip_val` if that is set.

        Lightning calls this with the whole step's gradient, after the last backward pass and before the update.
        """
        self.record.learning_rate = float(optimizer.param_groups[0]["lr"])
        self.record.gradient_norm = clip_gradients(self.trainer, self.trained, gradient_clip_val)
        has_scaler = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        self.record.check_finite(self.trainer.global_step, gradient_may_overflow=has_scaler)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """The update; its stochastic rounding, if it has one, is a function of (seed, step)."""
        step = super().optimizer_step
        if self.optimizer_config.get("bf16_stochastic_round"):
            with torch_seed(self.seed, Stream.ROUNDING, self.trainer.global_step):
                step(epoch, batch_idx, optimizer, optimizer_closure)
        else:
            step(epoch, batch_idx, optimizer, optimizer_closure)
        release_gradients(self.trainer, optimizer)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Nothing: `optimizer_step` has done it."""

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer over what is trained and its learning-rate schedule, one tick an optimizer step."""
        optimizer = instantiate(self.optimizer_config, self.model.parameter_groups())
        # Not trainer.estimated_stepping_batches: reading it sets up the loader early and would restart the data at 0.
        schedule = get_scheduler(
            self.schedule_config["name"],
            optimizer,
            num_warmup_steps=self.schedule_config["warmup_steps"],
            num_training_steps=self.trainer.max_steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained only, and say how diffusers calls it."""
        if checkpoint["state_dict"]:  # empty on all ranks but the first where weights are sharded
            checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in self.trained_names}
        checkpoint["weights"] = self.model.about(self.trained_names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError for a checkpoint of other weights than those that this config trains."""
        if differing := set(checkpoint["state_dict"]) ^ set(self.trained_names):
            raise UserError(
                f"The checkpoint does not hold the weights that this config trains ({min(differing)} is in only one of "
                "the two). Restore model.lora, or start a new run with another output_dir."
            )
