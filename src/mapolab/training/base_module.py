"""What the modules of all methods have in common: the trained weights, their optimizer, clipping and checkpoints."""

from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from mapolab.config.instantiate import instantiate
from mapolab.errors import UserError
from mapolab.models.encoder import Encoder
from mapolab.models.reference import Reference
from mapolab.models.trained import TrainedModel
from mapolab.objectives import ObjectiveResult
from mapolab.streams import Stream, torch_seed
from mapolab.training.gradients import clip_gradients, match_layout, release_gradients
from mapolab.training.record import StepRecord


class BaseModule(LightningModule):
    """Updates a model. A method's own module adds `training_step`, which notes each forward pass.

    reference: for objectives that need one. encoder: of images and prompts. optimizer, schedule: blocks of the config.
    """

    def __init__(
        self,
        model: TrainedModel,
        scheduler: DDPMScheduler,
        objective: Any,
        seed: int,
        optimizer: dict[str, Any],
        schedule: dict[str, Any],
        reference: Reference | None = None,
        encoder: Encoder | None = None,
    ):
        super().__init__()
        self.unet = model.unet.train()
        self.scheduler, self.objective, self.seed = scheduler, objective, seed
        self.optimizer_config, self.schedule_config = optimizer, schedule
        if model.text is not None:
            self.text_encoder, self.text_encoder_2 = model.text.models
        self.model = model
        # Plain attributes, not modules: neither belongs to the trained weights.
        self.reference, self.encoder = reference, encoder
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
        """Bring the frozen helpers to the device."""
        # Kept, because walking through the modules of a small UNet takes several percent of its step.
        self.trained = list(self.trained_weights().values())
        for helper in (self.reference, self.encoder):
            if helper is not None:
                helper.to(self.device)

    def on_train_start(self) -> None:
        """Lightning has restored the optimizer by now."""
        for optimizer in self.trainer.optimizers:
            if isinstance(optimizer, Optimizer):  # DeepSpeed's is none, and keeps its moments flat
                match_layout(optimizer)

    def note(self, batch_idx: int, positions: list[int], result: ObjectiveResult) -> None:
        """Add a forward pass to the record of its step; the first one of a step begins a new record."""
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.record = StepRecord()
        self.record.add(positions, result.per_sample, result.logs)

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
        count_passes(checkpoint, self.trainer.accumulate_grad_batches)


def count_passes(checkpoint: dict[str, Any], per_step: int) -> None:
    """Let Lightning's count of forward passes begin at a whole optimizer step of `per_step` passes.

    It goes on from the checkpoint's count and ends a step where that is a multiple of `per_step`. On another number of
    devices a step has another number of passes, and the first step after the restart would have been cut short.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    shift = checkpoint["global_step"] * per_step - progress["processed"]
    for stage in progress:
        progress[stage] += shift
