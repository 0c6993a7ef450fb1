"""What accelerators can do at best, from their makers' data sheets: dense tensor-core rates, without sparsity."""

from dataclasses import dataclass

from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError


@dataclass(frozen=True)
class Accelerator:
    """half, float32: peak rates in TFLOP/s, of 16-bit tensor cores and of float32. memory: GiB. bfloat16: has it."""

    half: float
    float32: float
    memory: float
    bfloat16: bool = True


ACCELERATORS = {
    "a100_40gb": Accelerator(312, 19.5, 40),
    "a100_80gb": Accelerator(312, 19.5, 80),
    "h100_80gb": Accelerator(989, 67, 80),
    "h100_pcie": Accelerator(756, 51, 80),
    "h200": Accelerator(989, 67, 141),
    "b200": Accelerator(2250, 80, 180),
    "l40s": Accelerator(362, 91.6, 48),
    "l4": Accelerator(121, 30.3, 24),
    "a10": Accelerator(125, 31.2, 24),
    "a6000": Accelerator(155, 38.7, 48),
    "rtx3090": Accelerator(71, 35.6, 24),
    "rtx4090": Accelerator(165, 82.6, 24),
    "rtx5090": Accelerator(210, 105, 32),
    "v100_32gb": Accelerator(125, 15.7, 32, bfloat16=False),
    "t4": Accelerator(65, 8.1, 16, bfloat16=False),
    "mi300x": Accelerator(1307, 163, 192),
}


def find_accelerator(name: str, precision: str) -> Accelerator:
    """Raises UserError for an unknown name, or one that lacks the precision."""
    if name not in ACCELERATORS:
        hint = did_you_mean(name, ACCELERATORS)
        raise UserError(
            f"There is no accelerator {name} in the table.{hint} Choose one of {', '.join(ACCELERATORS)}, or give the "
            "nearest one with your own peak_tflops=... and memory_gib=..."
        )
    if precision == "bf16-mixed" and not ACCELERATORS[name].bfloat16:
        raise UserError(
            f"The accelerator {name} does not compute in bfloat16. Set trainer.precision=16-mixed, or choose another."
        )
    return ACCELERATORS[name]
