"""The frozen model that Diffusion-DPO and its relatives compare with. The objective does not know which kind it is.

None of the kinds is an nn.Module, on purpose: as a child of the LightningModule it would be saved in every checkpoint,
wrapped by DDP and put into training mode with the trained UNet.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from mapolab.diffusion.errors import DenoisingTask, predict
from mapolab.models.lora import adapters_off
from mapolab.models.weights import assign


class Reference(Protocol):
    """What the trained UNet was at the start."""

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
