"""What follows the trained weights: an exponential moving average of them, and a reference that moves."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mapolab.models.reference import MovingCopy


class ExponentialMovingAverage(Callback):
    """Averages the trained weights after every optimizer step, in float32 or better, and is part of the checkpoint.

    decay: the limit; step n uses min(decay, (1 + n) / (10 + n)), or a short run would end near its initial weights.
    on_cpu: keep the average in CPU memory; each step then copies the weights there.
    """

    def __init__(self, decay: float, on_cpu: bool = False):
        self.decay, self.on_cpu = decay, on_cpu
        self.weights: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resumed run has loaded them already; Lightning restores callbacks before this hook.
        start = self.weights or pl_module.trained_weights()
        device = torch.device("cpu") if self.on_cpu else pl_module.device
        self.weights = {
            name: tensor.detach().to(device, torch.promote_types(tensor.dtype, torch.float32), copy=True)
            for name, tensor in start.items()
        }

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        decay = min(self.decay, (1 + step) / (10 + step))
        current = pl_module.trained_weights()
        # `to` is the tensor itself where device and precision are the same.
        newest = [current[name].detach().to(average) for name, average in self.weights.items()]
        torch._foreach_lerp_(list(self.weights.values()), newest, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights = state_dict["weights"]


class ReferenceFollows(Callback):
    """Moves the reference after every optimizer step; its weights are part of the checkpoint."""

    def __init__(self, reference: MovingCopy):
        self.reference = reference

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.reference.follow(trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.reference.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reference.weights = state_dict["weights"]
