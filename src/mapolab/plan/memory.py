"""Bytes on one device: what lies there for the whole run, under each strategy, and the peak of a step."""

from dataclasses import dataclass
from typing import Any

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from mapolab.config.rollout import passes_per_step
from mapolab.models.precision import DTYPES
from mapolab.plan.measure import WITHOUT_A_COPY, Measured, Step
from mapolab.plan.models import meta_text, meta_trained, meta_vae

FLOAT32 = 4
HALF = 2
QUANTIZATION_BLOCK, SMALL = 256, 4096  # bitsandbytes: numbers that share a scale; tensors below stay in float32
PREFETCHED = 1_000_000_000  # ZeRO-3 gathers at most so many parameters at once (stage3_max_live_parameters)


@dataclass(frozen=True)
class Static:
    """Bytes by part, all but activations. host: in CPU memory. persistent_gradients: they outlive a forward pass."""

    weights: int
    gradients: int
    optimizer: int
    reference: int
    encoders: int
    average: int
    host: int
    persistent_gradients: bool

    @property
    def lasting(self) -> int:
        """All that is there throughout, gradients aside."""
        return self.weights + self.optimizer + self.reference + self.encoders + self.average

    def peak(self, measured: Measured) -> int:
        """The most at any time of a step: while encoding, and during the forward and backward pass."""
        if self.persistent_gradients:
            step = self.gradients + measured.activations
        else:
            step = max(measured.with_gradients, self.gradients)
        kept = self.gradients if self.persistent_gradients else 0
        return self.lasting + max(step, kept + measured.encoding)


class Weights:
    """Counts of a config's parameters, on the meta device."""

    def __init__(self, config: dict[str, Any], step: Step):
        self.config, self.model = config, config["model"]
        self.unet, text = meta_trained(step.architecture, self.model)
        self.text = text if step.trains_text else []
        self.trained = [item for model in (self.unet, *self.text) for item in model.parameters() if item.requires_grad]
        self.frozen = {
            "frozen_dtype": sum(item.numel() for item in self.unet.parameters() if not item.requires_grad),
            "encoder_dtype": sum(
                item.numel() for model in self.text for item in model.parameters() if not item.requires_grad
            ),
        }
        self.unet_size = sum(item.numel() for name, item in self.unet.named_parameters() if ".lora_" not in name)
        self.encoder_bytes = self.encoder_count = 0
        if step.online:
            encoders = [] if self.text else meta_text(step.architecture)
            size = sum(item.numel() for model in encoders for item in model.parameters())
            vae = sum(item.numel() for item in meta_vae(step.architecture).parameters())
            self.encoder_count = size + vae
            self.encoder_bytes = size * DTYPES[self.model["encoder_dtype"]].itemsize + vae * step.vae_dtype.itemsize

    @property
    def trained_count(self) -> int:
        return sum(item.numel() for item in self.trained)

    @property
    def frozen_count(self) -> int:
        return sum(self.frozen.values()) + self.encoder_count

    @property
    def half_copies(self) -> int:
        """Bytes of the half-precision weights that autocast makes of float32 ones for a forward pass."""
        autocast = self.config["trainer"]["precision"].endswith("mixed")
        return HALF * sum(item.numel() for item in self.trained if autocast and item.element_size() == FLOAT32)

    def static(self, world_size: int, reference: str | None, strategy: dict[str, Any]) -> Static:
        """What each of `world_size` devices holds; for strategies that divide it, by their rules, never measured."""
        double = 2 if self.config["trainer"]["precision"] == "64-true" else 1
        trained = double * sum(item.numel() * item.element_size() for item in self.trained)
        frozen = double * sum(count * DTYPES[self.model[key]].itemsize for key, count in self.frozen.items())
        copy = self._copy(reference, trained)
        average = FLOAT32 * self.trained_count if self.config["trainer"]["ema_decay"] else 0
        on_cpu, offloaded = self.config["trainer"]["ema_on_cpu"], reference == "offloaded_copy"
        parts = {
            "weights": trained + frozen,
            "gradients": trained,
            "optimizer": double * sum(self._moments(item) for item in self.trained),
            "reference": 0 if offloaded else copy,
            "encoders": self.encoder_bytes,
            "average": 0 if on_cpu else average,
            "host": (average if on_cpu else 0) + (copy if offloaded else 0),
            "persistent_gradients": passes_per_step(self.config) > 1,
        }
        return Static(**parts | self._divided(parts, frozen, world_size, strategy))

    def _copy(self, reference: str | None, trained: int) -> int:
        """Bytes of the reference; one that moves is a copy of what is trained."""
        if reference in (None, "lora_off"):
            return 0
        moves = reference in WITHOUT_A_COPY
        return trained if moves else self.unet_size * DTYPES[self.model["reference_dtype"]].itemsize

    def _divided(self, parts: dict[str, Any], frozen: int, world: int, strategy: dict[str, Any]) -> dict[str, Any]:
        """The parts that a strategy changes."""
        name, options = strategy["strategy"], strategy["options"]
        if name == "ddp" and world > 1:
            buckets = 0 if options.get("gradient_as_bucket_view") else parts["gradients"]
            return {"gradients": parts["gradients"] + buckets, "persistent_gradients": True}
        if name == "fsdp":
            divided = {key: parts[key] // world for key in ("weights", "gradients", "optimizer")}
            on_host = sum(divided.values()) if options.get("cpu_offload") else 0
            left = dict.fromkeys(divided, 0) if on_host else divided
            return left | {"weights": left["weights"] + self._gathered_units(), "host": parts["host"] + on_host}
        if name == "deepspeed":
            return self._zero(parts, frozen, world, options)
        return {}

    def _gathered_units(self) -> int:
        """FSDP has two units whole at a time, and always what is in none, in the precision that it computes in."""
        width = HALF if self.config["trainer"]["precision"].endswith("mixed") else FLOAT32
        units = [_size(unit) for unit in self.unet.modules() if isinstance(unit, BasicTransformerBlock | ResnetBlock2D)]
        outside = _size(self.unet) - sum(units)
        return width * (outside + sum(sorted(units)[-2:]))

    def _zero(self, parts: dict[str, Any], frozen: int, world: int, options: dict[str, Any]) -> dict[str, Any]:
        """Under a mixed precision ZeRO keeps half-precision weights, and divides float32 masters with the moments."""
        mixed = self.config["trainer"]["precision"].endswith("mixed")
        width = HALF if mixed else FLOAT32
        masters = FLOAT32 * self.trained_count if mixed else 0
        states, weights = (masters + parts["optimizer"]) // world, width * self.trained_count + frozen
        bucket = width * int(options.get("reduce_bucket_size", 0))
        gradients = width * self.trained_count // world + bucket
        host = parts["host"] + (states if options.get("offload_optimizer") else 0)
        if options.get("offload_parameters"):
            host += weights // world
            weights = width * min(PREFETCHED, self.trained_count + sum(self.frozen.values()))
        elif options.get("stage") == 3:
            weights = weights // world + width * min(PREFETCHED, self.trained_count + sum(self.frozen.values()))
        return {
            "weights": weights,
            "gradients": bucket if options.get("offload_optimizer") else gradients,
            "optimizer": 0 if options.get("offload_optimizer") else states,
            "host": host,
            "persistent_gradients": True,
        }

    def _moments(self, parameter: nn.Parameter) -> int:
        """Bytes of an optimizer's state for one parameter."""
        target, size = self.config["optimizer"]["_target_"], parameter.numel()
        if target.endswith("Adafactor"):
            shape = parameter.shape
            factored = size // shape[-1] + size // shape[-2] if len(shape) > 1 else size
            return FLOAT32 * factored
        if target.endswith("AdamW8bit"):
            return 2 * (size + FLOAT32 * -(-size // QUANTIZATION_BLOCK)) if size >= SMALL else 2 * FLOAT32 * size
        return 2 * size * parameter.element_size()


def _size(module: nn.Module) -> int:
    return sum(item.numel() for item in module.parameters())
