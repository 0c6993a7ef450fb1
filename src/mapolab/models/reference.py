"""The model that Diffusion-DPO and its relatives compare with. The objective does not know which kind it is.

None of the kinds is an nn.Module, on purpose: as a child of the LightningModule it would be saved in every checkpoint,
wrapped by DDP and put into training mode with the trained UNet.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mapolab.diffusion.errors import DenoisingTask, predict
from mapolab.models.lora import adapters_off
from mapolab.models.weights import assign


class Reference(Protocol):
    """What the trained UNet was at the start, or some way back."""

    def to(self, device: torch.device) -> "Reference":
        """Make ready to compute there; returns self."""
        ...

    def predict(self, task: DenoisingTask) -> Tensor:
        """What the reference predicts, (N, C, H, W), without a gradient."""
        ...


class LoraOff:
    """The trained UNet itself without its adapters: no extra memory."""

    def __init__(self, unet: nn.Module):
        self.unet = unet

    def to(self, device: torch.device) -> "LoraOff":
        return self

    @torch.no_grad()
    def predict(self, task: DenoisingTask) -> Tensor:
        with adapters_off(self.unet):
            return predict(self.unet, task)


class MovingCopy:
    """The trained UNet as it was some way back: its trained tensors averaged, or taken over now and then.

    Every step the average goes a share 1 - `decay` towards the model (decay None: it stands still), and every
    `refresh_every` steps it becomes the model as it is (None: never). What is not trained is shared with the model.
    """

    def __init__(self, unet: nn.Module, decay: float | None = None, refresh_every: int | None = None):
        self.unet, self.decay, self.refresh_every = unet, decay, refresh_every
        trained = {name: tensor for name, tensor in unet.named_parameters() if tensor.requires_grad}
        self.weights = {name: tensor.detach().clone() for name, tensor in trained.items()}

    def to(self, device: torch.device) -> "MovingCopy":
        self.weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
        return self

    @torch.no_grad()
    def predict(self, task: DenoisingTask) -> Tensor:
        training = self.unet.training
        self.unet.eval()  # the adapters' dropout is the model's
        try:
            return predict(lambda *inputs, **named: functional_call(self.unet, self.weights, inputs, named), task)
        finally:
            self.unet.train(training)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move after `step` optimizer steps."""
        share = None if self.decay is None else 1 - self.decay
        if self.refresh_every is not None and step % self.refresh_every == 0:
            share = 1.0
        if share is not None:
            current = dict(self.unet.named_parameters())
            newest = [current[name].detach() for name in self.weights]
            torch._foreach_lerp_(list(self.weights.values()), newest, share)


class FrozenCopy:
    """A copy of the UNet as it is now, without adapters, in its own dtype.

    offloaded: the weights stay in CPU memory, and each layer is moved to the device for its own computation.
    """

    def __init__(self, unet: nn.Module, dtype: torch.dtype = torch.float32, offloaded: bool = False):
        self.dtype, self.offloaded = dtype, offloaded
        with torch.device("meta"):
            self.unet = type(unet).from_config(unet.config)
        # One tensor after the other: a deep copy that is then converted would hold the weights three times.
        for name, tensor in unet.state_dict().items():
            if ".lora_" not in name:
                assign(self.unet, name.replace(".base_layer.", "."), tensor.detach().to(dtype, copy=True))
        self.unet.eval().requires_grad_(False)

    def to(self, device: torch.device) -> "FrozenCopy":
        if not self.offloaded:
            self.unet.to(device)
        else:
            self.unet.enable_group_offload(
                onload_device=device,
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
                use_stream=device.type == "cuda",  # the next layer is fetched while one computes
            )
        return self

    @torch.no_grad()
    def predict(self, task: DenoisingTask) -> Tensor:
        return predict(self.unet, task, self.dtype)
