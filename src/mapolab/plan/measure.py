"""Operations and activations of a step, by part, from traces on fake tensors."""

import contextlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mapolab import objectives
from mapolab.diffusion.errors import DenoisingTask, pair_errors, predict
from mapolab.diffusion.inversion import Inversion
from mapolab.diffusion.timesteps import Timesteps
from mapolab.models.encoder import PIXELS_AT_ONCE
from mapolab.models.lora import adapters_off
from mapolab.models.precision import DTYPES
from mapolab.models.sdxl import empty_unet
from mapolab.models.trained import trains_text
from mapolab.plan.models import Architecture, meta_text, meta_trained, meta_vae
from mapolab.plan.trace import Count, counting, fake

TOKENS = 77
# References that compute through the trained UNet itself, with other values in place of what is trained.
WITHOUT_A_COPY = ("lora_off", "ema", "refreshed")
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Measured:
    """Of one batch on one device.

    flops: by part (vae, text, unet_forward, reference, backward, inversion, drawing). The rest are bytes. activations:
    the most that a forward and backward pass holds beside weights, reference and finished gradients; with_gradients:
    those included, where no gradient is there before. encoding: the most that encoding the batch holds, or decoding it.
    """

    flops: dict[str, int]
    activations: int
    with_gradients: int
    encoding: int


class Step:
    """The training step of a config. reference: its kind, or None."""

    def __init__(self, config: dict[str, Any], architecture: Architecture, reference: str | None):
        self.config, self.architecture, self.reference_kind = config, architecture, reference
        self.model, self.resolution = config["model"], config["data"]["resolution"]
        self.objective = objectives.build(**config["objective"])
        self.sides = 2 if self.objective.needs_rejected else 1
        self.online = not config["data"]["cache"]
        self.trains_text = trains_text(self.model["lora"])

    def measure(self, pairs: int, checkpointing: bool) -> Measured:
        """Trace a batch of `pairs`."""
        mode = FakeTensorMode()
        unet, text = meta_trained(self.architecture, self.model | {"gradient_checkpointing": checkpointing})
        encoder_dtype = DTYPES[self.model["encoder_dtype"]]
        fake(unet, mode, DTYPES[self.model["frozen_dtype"]] if self.model["lora"] else None)
        text = [fake(encoder, mode, encoder_dtype) for encoder in text] if self.trains_text else []
        with mode:
            flops, step = self._trace_step(unet, self._reference(unet, mode), text, pairs)
            vae_flops, encoding = self._trace_vae(mode, pairs) if self.online else (0, 0)
            if self.online and not self.trains_text:
                frozen = [fake(encoder, mode, encoder_dtype) for encoder in meta_text(self.architecture)]
                with counting(*frozen) as count, torch.no_grad():
                    encode_text(frozen, pairs)
                flops["text"] = count().flops
        return Measured({"vae": vae_flops} | flops, step.peak_beside_gradients, step.peak, encoding)

    def _trace_step(
        self, unet: nn.Module, reference: nn.Module | None, text: list[nn.Module], pairs: int
    ) -> tuple[dict[str, int], Count]:
        copies = [] if reference is None or reference is unet else [reference]
        marks = [0]
        with counting(unet, *copies, *text) as count:
            with self._autocast():
                embeds = encode_text(text, pairs) if text else self._embeds(pairs)
                marks.append(count().flops)
                task = self._task(pairs, *embeds)
                prediction = predict(unet, task)
                marks.append(count().flops)
                compared = None if reference is None else self._reference_prediction(reference, unet, task)
                marks.append(count().flops)
                products = self.objective.needs_products
                loss = self.objective(pair_errors(prediction, task.target, compared, self.sides == 2, products)).loss
            loss.backward()
            total = count()
        marks.append(total.flops)
        names = "text", "unet_forward", "reference", "backward"
        parts = {name: after - before for name, (before, after) in zip(names, pairwise(marks), strict=True)}
        return parts | {"inversion": round(parts["unet_forward"] * self._inversion_passes())}, total

    def _inversion_passes(self) -> float:
        """Forward passes that find an image's noise, of which none needs more memory than the training step."""
        diffusion = self.config["diffusion"]
        if diffusion.get("noise", "gaussian") == "gaussian":
            return 0.0
        timesteps = Timesteps.from_config(diffusion, self.architecture.timesteps)
        inversion = Inversion.from_config(diffusion)
        return inversion.forward_passes(timesteps.first, timesteps.last, self.architecture.timesteps)

    def _reference(self, unet: nn.Module, mode: FakeTensorMode) -> nn.Module | None:
        if self.reference_kind in (None, *WITHOUT_A_COPY):
            return unet if self.reference_kind else None
        copy = empty_unet(self.architecture.configs["unet"]).requires_grad_(False).eval()
        return fake(copy, mode, DTYPES[self.model["reference_dtype"]])

    def _reference_prediction(self, reference: nn.Module, unet: nn.Module, task: DenoisingTask) -> Tensor:
        off = adapters_off(unet) if reference is unet else contextlib.nullcontext()
        dtype = None if reference is unet else reference.dtype
        with torch.no_grad(), off:
            return predict(reference, task, dtype)

    def _trace_vae(self, mode: FakeTensorMode, pairs: int) -> tuple[int, int]:
        """As `models.encoder` does it: some images at a time, without gradients."""
        vae = fake(meta_vae(self.architecture), mode, self.vae_dtype)
        images, side = pairs * self.sides, self.resolution
        at_once = min(images, max(1, PIXELS_AT_ONCE // side**2))
        with counting(vae) as count, torch.no_grad():
            self._through_vae(vae, at_once)
        pixels = images * 3 * side * side * (1 + torch.float32.itemsize)
        return count().flops * images // at_once, count().peak + pixels

    def _through_vae(self, vae: nn.Module, images: int) -> None:
        vae.encode(torch.empty(images, 3, self.resolution, self.resolution, dtype=vae.dtype))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        configs = self.architecture.configs
        side = self.resolution // 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
        return configs["unet"]["in_channels"], side, side

    @property
    def vae_dtype(self) -> torch.dtype:
        """As `SDXL.dtype_of_vae`, from the configs that are at hand."""
        if self.model["vae_dtype"] != "auto":
            return DTYPES[self.model["vae_dtype"]]
        safe = self.model["vae"] is not None or self.architecture.configs["vae"].get("force_upcast", True) is False
        return DTYPES[self.model["encoder_dtype"]] if safe else torch.float32

    def _embeds(self, pairs: int) -> tuple[Tensor, Tensor]:
        configs = self.architecture.configs
        width = configs["text_encoder"]["hidden_size"] + configs["text_encoder_2"]["hidden_size"]
        tokens = configs["text_encoder"].get("max_position_embeddings", TOKENS)
        return torch.empty(pairs, tokens, width), torch.empty(pairs, configs["text_encoder_2"]["projection_dim"])

    def _task(self, pairs: int, embeds: Tensor, pooled: Tensor) -> DenoisingTask:
        images = pairs * self.sides
        dtype = torch.float64 if self.config["trainer"]["precision"] == "64-true" else torch.float32
        latents = torch.empty(images, *self.latent_shape, dtype=dtype)
        return DenoisingTask(
            noisy_latents=latents,
            timesteps=torch.empty(images, dtype=torch.int64),
            prompt_embeds=torch.cat([embeds] * self.sides),
            pooled_prompt_embeds=torch.cat([pooled] * self.sides),
            add_time_ids=torch.empty(images, 6),
            target=torch.empty_like(latents),
        )

    def _autocast(self) -> contextlib.AbstractContextManager:
        dtype = AUTOCAST.get(self.config["trainer"]["precision"])
        return contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype)


def encode_text(encoders: list[nn.Module], prompts: int) -> tuple[Tensor, Tensor]:
    """As `models.prompts`: penultimate states side by side, and the second's projection."""
    tokens = torch.empty(prompts, encoders[0].config.max_position_embeddings, dtype=torch.int64)
    outputs = [encoder(tokens, output_hidden_states=True) for encoder in encoders]
    return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[-1].text_embeds
