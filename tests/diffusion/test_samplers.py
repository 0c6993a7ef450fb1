"""The four schedulers on a model whose pictures are known: normally distributed data, for which the best prediction,
the exact path of noise to picture and the distribution of all pictures can be written down."""

import inspect
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch

from mapolab.diffusion.samplers import SAMPLERS, build_sampler, sampling_timesteps
from mapolab.errors import UserError
from mapolab.models.noise_process import SPACINGS, noise_process, scheduler_settings

MEAN, STD = 0.7, 0.6  # of the data
SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
KINDS = {
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "velocity": {"timestep_spacing": "leading", "steps_offset": 1, "prediction_type": "v_prediction"},
    "zero terminal SNR": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "cosine": {"timestep_spacing": "trailing", "beta_schedule": "squaredcos_cap_v2"},
    "100 timesteps": {
        "timestep_spacing": "leading",
        "num_train_timesteps": 100,
        "trained_betas": [0.0005 + number / 1000 for number in range(100)],
    },
}


def settings_of(**config) -> dict:
    return scheduler_settings("m", {}, {"_class_name": "EulerDiscreteScheduler"} | SDXL | config, "auto", "auto")


def draw(name: str, kind: str, steps: int, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is drawn, as the pipeline's loop draws it, and where the exact path from the same noise leads."""
    settings = settings_of(**KINDS[kind])
    sampler = build_sampler(name, settings)
    sampler.set_timesteps(timesteps=sampling_timesteps(sampler, steps))
    sigmas = ((1 - sampler.alphas_cumprod) / sampler.alphas_cumprod).double().sqrt().numpy()
    generators = [np.random.default_rng(number) for number in range(len(noise))]
    x, place = noise * sampler.init_noise_sigma, None
    for timestep in sampler.timesteps:
        seen = sampler.scale_model_input(x, timestep).double()
        signal = 1 / (1 + np.interp(float(timestep), np.arange(len(sigmas)), sigmas) ** 2)
        variance = signal * STD**2 + 1 - signal
        offset = seen - signal**0.5 * MEAN
        place = offset / variance**0.5 if place is None else place  # the same all along the exact path
        picture = MEAN + signal**0.5 * STD**2 / variance * offset
        predicted = (seen - signal**0.5 * picture) / (1 - signal) ** 0.5
        if settings["prediction_type"] == "v_prediction":
            predicted = signal**0.5 * predicted - (1 - signal) ** 0.5 * picture
        x = sampler.step(predicted.float(), timestep, x, generator=generators, return_dict=False)[0]
    return x, (MEAN + STD * place).float()


def noise_of(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_all_come_to_the_same_picture_each_at_its_order(kind):
    few, many = (20, 100) if kind == "100 timesteps" else (100, 500)
    errors = {}
    for name in ("euler", "ddim", "dpm++"):
        found = [draw(name, kind, steps, noise_of(4)) for steps in (few, many)]
        errors[name] = [(picture - exact).abs().max().item() for picture, exact in found]
    for name in ("euler", "ddim"):  # first order: five times the steps, up to a fifth of the error
        assert 0.15 < errors[name][1] / errors[name][0] < 0.35
    assert errors["euler"][1] < (0.1 if kind == "100 timesteps" else 0.03)
    assert errors["dpm++"][1] < 0.6 * errors["euler"][1]  # of second order, but for its last step
    euler, ddim = (draw(name, kind, many, noise_of(4))[0] for name in ("euler", "ddim"))
    torch.testing.assert_close(euler, ddim, rtol=0, atol=1e-3)  # the same rule in other variables


@pytest.mark.parametrize("kind", ["leading", "linspace", "zero terminal SNR"])
def test_ancestral_pictures_are_distributed_as_the_data(kind):
    pictures, _ = draw("euler_ancestral", kind, 500, noise_of(1000))
    assert pictures.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert pictures.std().item() == pytest.approx(STD, abs=0.015)
    halves = pictures.flatten(1)[:, :32] - MEAN, pictures.flatten(1)[:, 32:] - MEAN
    assert abs((halves[0] * halves[1]).mean().item()) < 0.01  # no noise is used twice


class AsTorch:
    """A generator of numpy's form with torch's numbers."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def standard_normal(self, shape, dtype):
        return torch.randn(shape, generator=self.generator).numpy()


@pytest.mark.parametrize("velocity", [False, True])
def test_steps_are_those_of_diffusers(velocity):
    """Where theirs are what they should be: DDIM in the spacing that its stride fits, without clipping."""
    kind = {
        "prediction_type": "v_prediction" if velocity else "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": 1,
    }
    theirs = {
        "ddim": diffusers.DDIMScheduler(**SDXL, **kind, clip_sample=False, set_alpha_to_one=True),
        "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler(**SDXL, **kind),
    }
    for name, their in theirs.items():
        ours = build_sampler(name, settings_of(**kind))
        ours.set_timesteps(timesteps=sampling_timesteps(ours, 20))
        their.set_timesteps(20)
        assert ours.timesteps.tolist() == their.timesteps.tolist()
        x = y = noise_of(1) * ours.init_noise_sigma
        theirs_of = {"generator": [torch.Generator().manual_seed(5)]} if name == "euler_ancestral" else {}
        generator = [AsTorch(5)]
        for number, timestep in enumerate(their.timesteps):
            a, b = ours.scale_model_input(x, timestep), their.scale_model_input(y, timestep)
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            x = ours.step(torch.sin(3 * a + number), timestep, x, generator=generator).prev_sample
            y = their.step(torch.sin(3 * b + number), timestep, y, **theirs_of).prev_sample
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)


def test_no_setting_of_a_scheduler_is_a_default_of_diffusers():
    for name, (kind, _) in SAMPLERS.items():
        process = settings_of() | {"trained_betas": None}
        sampler = build_sampler(name, process)
        assert set(sampler.config["_use_default_values"]) <= {"trained_betas"}
        known = set(inspect.signature(kind.__init__).parameters) - {"self"}
        assert known == {key for key in sampler.config if not key.startswith("_")}


# Of one class, in another they would decide: each was once taken over from a config of another class.
STRANGE = {
    "clip_sample": True, "set_alpha_to_one": False, "thresholding": True, "sample_max_value": 0.1, "solver_order": 3,
    "algorithm_type": "sde-dpmsolver++", "solver_type": "heun", "final_sigmas_type": "sigma_min",
    "use_lu_lambdas": True, "lower_order_final": False, "euler_at_final": True, "use_karras_sigmas": True,
    "interpolation_type": "log_linear", "lambda_min_clipped": -5.1, "sigma_min": 0.1, "sigma_max": 5.0,
    "skip_prk_steps": True, "predict_x0": False,
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("kind", SPACINGS)
def test_a_config_of_any_class_gives_the_same_scheduler(name, kind):
    process = SDXL | {"timestep_spacing": "leading", "steps_offset": 1}
    plain = build_sampler(name, settings_of(**process)).config
    for config in (process, process | STRANGE, process | dict.fromkeys(STRANGE)):
        assert build_sampler(name, settings_of(**config, _class_name=kind)).config == plain
    assert build_sampler(name, settings_of(_class_name=kind)).config.timestep_spacing == SPACINGS[kind]


@pytest.mark.parametrize("kind", [kind for kind in SPACINGS if kind != "DPMSolverSDEScheduler"])  # which needs torchsde
def test_what_a_config_leaves_out_is_what_diffusers_takes(kind):
    theirs = getattr(diffusers, kind)(**SDXL)
    assert theirs.config.get("timestep_spacing", "linspace") == SPACINGS[kind]
    assert theirs.config.get("steps_offset", 0) == 0
    assert theirs.config.num_train_timesteps == settings_of(_class_name=kind)["num_train_timesteps"]
    ours = diffusers.DDPMScheduler(**noise_process(settings_of(_class_name=kind)))
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_number_of_steps_stays_among_the_models_timesteps(name, spacing):
    """diffusers' own trailing timesteps are one too many with 61 steps, and the last one is -1."""
    sampler = build_sampler(name, settings_of(timestep_spacing=spacing, steps_offset=1))
    refused = []
    for steps in [*range(1, 130), 250, 300, 334, 499, 500, 501, 600, 673, 999, 1000]:
        try:
            times = sampling_timesteps(sampler, steps)
        except UserError:
            refused.append(steps)
            continue
        assert len(times) == steps and times[-1] >= 0 and times[0] <= 999
        assert all(later < earlier for earlier, later in pairwise(times))
    assert refused == ([1, 334, 501, 600, 673] if spacing == "leading" else [])
    for steps in (0, 1001):
        with pytest.raises(UserError, match=rf"steps={steps}, but the model has 1000 timesteps\. Give 1 to 1000"):
            sampling_timesteps(sampler, steps)


def test_a_beginning_where_the_picture_shows_is_named_with_a_better_number():
    sampler = build_sampler("ddim", settings_of(timestep_spacing="leading"))
    with pytest.raises(UserError, match=r"evaluation.steps=600 .* at timestep 599 of 1000, .*such as 250 or 500\.$"):
        sampling_timesteps(sampler, 600, "evaluation.steps")


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="scheduler=pndm does not exist"):
        build_sampler("pndm", settings_of())
