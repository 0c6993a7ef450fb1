import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from mapolab.diffusion.conditioning import drop_prompts, dropped
from mapolab.diffusion.noise import draw_timesteps
from mapolab.diffusion.timesteps import Timesteps
from mapolab.errors import UserError

SETTINGS = {"timestep_range": None, "timestep_weighting": "none", "min_snr_gamma": 5.0}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_is_that_of_the_paper(prediction_type):
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    timesteps = torch.arange(0, 1000, 37)
    snr = compute_snr(scheduler, timesteps)
    expected = snr.clamp(max=5) / (snr if prediction_type == "epsilon" else snr + 1)
    weights = Timesteps(0, 999, "min_snr", 5.0).weights(scheduler, timesteps)
    torch.testing.assert_close(weights, expected.float())


def test_debiased_weights_treat_both_predictions_alike():
    """A velocity's error is (SNR + 1) / SNR times that of the noise it stands for."""
    timesteps = torch.tensor([1, 500, 999])
    noise, velocity = (
        Timesteps(0, 999, "debiased").weights(DDPMScheduler(prediction_type=kind), timesteps)
        for kind in ("epsilon", "v_prediction")
    )
    snr = compute_snr(DDPMScheduler(), timesteps)
    torch.testing.assert_close(noise, snr.rsqrt())
    torch.testing.assert_close(velocity * (snr + 1) / snr, noise)


def test_weights_stay_finite_at_a_zero_terminal_snr():
    scheduler = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    for weighting in ("min_snr", "debiased"):
        assert torch.isfinite(Timesteps(0, 999, weighting).weights(scheduler, torch.tensor([0, 999]))).all()


def test_a_range_is_kept_and_covered():
    drawn = draw_timesteps(0, list(range(2000)), 200, 219)
    assert sorted(set(drawn.tolist())) == list(range(200, 220))
    assert Timesteps.from_config(SETTINGS, 1000) == Timesteps(0, 999)


@pytest.mark.parametrize("span", [[500, 400], [-1, 10], [0, 1000]])
def test_a_range_that_is_none(span):
    with pytest.raises(UserError, match="ascending order from 0 to 999"):
        Timesteps.from_config(SETTINGS | {"timestep_range": span}, 1000)


def test_prompts_are_left_out_as_a_function_of_the_position():
    mask = dropped(3, list(range(4000)), 0.2)
    assert mask.float().mean() == pytest.approx(0.2, abs=0.02)
    assert torch.equal(dropped(3, [17, 5], 0.2), mask[[17, 5]])
    embeds, empty = torch.ones(3, 4, 2), torch.full((1, 4, 2), 7.0)
    mask = torch.tensor([True, False, True])
    assert drop_prompts(embeds, None, mask)[:, 0, 0].tolist() == [0, 1, 0]
    assert drop_prompts(embeds, empty, mask)[:, 0, 0].tolist() == [7, 1, 7]
