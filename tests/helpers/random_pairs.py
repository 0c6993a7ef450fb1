"""Every objective with settings to test it by, and errors of made-up predictions."""

import torch

from mapolab.objectives import PairErrors

SETTINGS = {
    "sft": {},
    "mapo": {"beta": 8},
    "mapo_reference": {"beta": 0.1, "snr": 0.5},
    "diffusion_dpo": {"beta": 5000},
    "diffusion_kto": {"beta": 1000},
    "orpo": {"beta": 0.1},
    "cdpo": {"beta": 5000, "label_smoothing": 0.1},
    "ipo": {"beta": 5000},
    "dmpo": {"beta": 6000, "alpha": 0.01},
    "dspo": {"beta": 5000, "strength": 0.5},
    "sdpo": {"base": {"name": "diffusion_dpo", "beta": 5000}, "mu": 0.6},
    "inpo": {"beta": 5000},
    "smpo": {"beta": 5000, "sharpness": 10},
}
# The same with strengths at which errors of about 1 do not saturate the sigmoid.
MILD = {
    **SETTINGS,
    **{name: SETTINGS[name] | {"beta": 1} for name in SETTINGS if SETTINGS[name].get("beta", 0) >= 1000},
    "smpo": {"beta": 1, "sharpness": 1},
    "sdpo": {"base": {"name": "diffusion_dpo", "beta": 1}, "mu": 0.6},
}
DIMENSIONS = 5


def random_predictions(batch=6, seed=1):
    """(prediction - target) of model and reference on chosen and rejected images: four tensors (batch, DIMENSIONS)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, DIMENSIONS, generator=generator, dtype=torch.float64) for _ in range(4)]


def errors_of(chosen, rejected, reference_chosen, reference_rejected, **others):
    """As `diffusion.errors.pair_errors`, of residuals with one axis."""
    squares = [value.square().mean(1) for value in (chosen, rejected, reference_chosen, reference_rejected)]
    products = {
        "chosen_reference_product": (chosen * reference_chosen).mean(1),
        "chosen_rejected_product": (chosen * rejected).mean(1),
    }
    return PairErrors(*squares, **products, **others)


def random_errors(batch=6):
    return errors_of(*random_predictions(batch))
