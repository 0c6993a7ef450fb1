"""The LightningModule: one forward pass over a batch of pairs, and the objective's loss."""

from dataclasses import replace
from typing import Any

import diffusers
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from mapolab.config.instantiate import instantiate
from mapolab.data.datasets import Batch, encode_batch
from mapolab.diffusion.errors import denoising_task, per_sample_errors, predict
from mapolab.models.encoder import Encoder
from mapolab.models.reference import FrozenCopy
from mapolab.objectives import PairErrors
from mapolab.training.record import StepRecord


class AlignmentModule(LightningModule):
    """Trains the UNet with an objective.

    unet: float32 weights, the only parameters. reference: for objectives that need one. encoder: for batches that are
    not encoded yet; sample_posterior says how. optimizer, schedule: blocks of the config.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: DDPMScheduler,
        objective: Any,
        seed: int,
        optimizer: dict[str, Any],
        schedule: dict[str, Any],
        reference: FrozenCopy | None = None,
        encoder: Encoder | None = None,
        sample_posterior: bool = False,
    ):
        super().__init__()
        self.unet = unet.train()
        self.scheduler, self.objective, self.seed = scheduler, objective, seed
        self.optimizer_config, self.schedule_config = optimizer, schedule
        # Plain attributes, not modules: neither belongs to the trained weights.
        self.reference, self.encoder, self.sample_posterior = reference, encoder, sample_posterior
        self.record = StepRecord()

    def on_fit_start(self) -> None:
        """Bring the frozen helpers to the device, and let an objective with a batch statistic see all ranks."""
        # Kept, because walking through the modules of a small UNet takes several percent of its step.
        self.trained = list(self.unet.parameters())
        for helper in (self.reference, self.encoder):
            if helper is not None:
                helper.to(self.device)
        if self.trainer.world_size > 1 and hasattr(self.objective, "mean_over_ranks"):
            self.objective = replace(self.objective, mean_over_ranks=self.trainer.strategy.reduce)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The objective's loss of one forward pass, a scalar."""
        if self.encoder is not None:
            batch = encode_batch(batch, self.encoder, self.seed, self.sample_posterior)
        with_rejected = "rejected_latents" in batch
        task = denoising_task(batch, self.scheduler, self.seed, with_rejected)
        errors = per_sample_errors(predict(self.unet, task), task.target)
        reference_errors = self.reference.errors(task) if self.reference is not None else None
        result = self.objective(pair_errors(errors, reference_errors, with_rejected, batch["labels"], batch["weights"]))
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.record = StepRecord()
        self.record.add(batch["positions"], result.per_sample, result.logs)
        return result.loss

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Measure the gradient, refuse it if it is not finite, clip it to a norm of `gradient_clip_val` if that is set.

        Lightning calls this with the whole step's gradient, after the last backward pass and before the update.
        """
        norm = get_total_norm([gradient for parameter in self.trained if (gradient := parameter.grad) is not None])
        self.record.gradient_norm, self.record.learning_rate = norm, optimizer.param_groups[0]["lr"]
        has_scaler = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        self.record.check_finite(self.trainer.global_step, gradient_may_overflow=has_scaler)
        # Below the limit the factor is 1, and multiplying all gradients by it would only cost time.
        if gradient_clip_val and not norm <= gradient_clip_val:
            clip_grads_with_norm_(self.trained, gradient_clip_val, norm)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer over the UNet's parameters and its learning-rate schedule, one tick an optimizer step."""
        optimizer = instantiate(self.optimizer_config, self.unet.parameters())
        # Not trainer.estimated_stepping_batches: reading it sets up the loader early and would restart the data at 0.
        schedule = get_scheduler(
            self.schedule_config["name"],
            optimizer,
            num_warmup_steps=self.schedule_config["warmup_steps"],
            num_training_steps=self.trainer.max_steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the UNet's architecture, so that the checkpoint's `unet/` folder opens in diffusers."""
        checkpoint["unet_config"] = unet_config(self.unet)


def pair_errors(
    errors: Tensor,
    reference: Tensor | None,
    with_rejected: bool,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> PairErrors:
    """Split the (N,) errors of a forward pass into chosen and rejected, (B,) each, beside (B,) labels and weights."""
    chosen, rejected = errors.chunk(2) if with_rejected else (errors, None)
    split = reference.chunk(2) if reference is not None and with_rejected else (reference, None)
    return PairErrors(chosen, rejected, *split, labels, weights)


def unet_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The content of diffusers' `config.json` for this UNet."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    return {"_class_name": type(unet).__name__, "_diffusers_version": diffusers.__version__, **config}
