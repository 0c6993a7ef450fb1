"""DDPO's loss against values worked out by hand, its gradient, and its limits."""

import math

import pytest
import torch

from mapolab.errors import UserError
from mapolab.objectives import build

# Ratios 1, 1.2, 1.2, 0.8, 0.8 with clip 0.1: the clipped one counts where it makes the loss larger.
RATIOS = torch.tensor([1.0, 1.2, 1.2, 0.8, 0.8], dtype=torch.float64)
ADVANTAGES = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
LOSSES = [-2.0, -1.1, 1.2, -0.8, 0.9]
COUNTS = [True, False, True, True, False]  # whether a step still moves the weights


def test_losses_and_gradients_are_those_by_hand():
    old = torch.tensor([-1.0, -2.0, 0.0, 3.0, 1.0], dtype=torch.float64)
    log_probs = (old + RATIOS.log()).requires_grad_()
    result = build("ddpo", clip_range=0.1)(log_probs, old, ADVANTAGES)
    assert result.per_sample.tolist() == pytest.approx(LOSSES, abs=1e-12)
    assert result.loss.item() == pytest.approx(sum(LOSSES) / 5, abs=1e-12)
    (gradient,) = torch.autograd.grad(result.loss, log_probs)
    expected = torch.where(torch.tensor(COUNTS), -ADVANTAGES * RATIOS / 5, 0.0)  # dq / dlogp = q
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    assert result.logs["ratio"].item() == pytest.approx(1.0)
    assert result.logs["clip_fraction"].item() == pytest.approx(0.8)
    kl = (2 * math.log(1.2) ** 2 + 2 * math.log(0.8) ** 2) / 5 / 2
    assert result.logs["approx_kl"].item() == pytest.approx(kl)


def test_before_an_update_the_loss_is_the_plain_policy_gradient():
    old = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_probs, advantages = old.clone().requires_grad_(), torch.arange(-3.0, 3.0, dtype=torch.float64)
    result = build("ddpo")(log_probs, old, advantages)
    assert result.logs["ratio"] == 1 and result.logs["approx_kl"] == 0 and result.logs["clip_fraction"] == 0
    (gradient,) = torch.autograd.grad(result.loss, log_probs)
    torch.testing.assert_close(gradient, -advantages / 6)


def test_an_advantage_is_cut_off():
    zero = torch.zeros(2)
    loss = build("ddpo", advantage_clip=2)(zero, zero, torch.tensor([7.0, -7.0]))
    assert loss.per_sample.tolist() == [-2, 2]


def test_the_kl_term_is_added_and_needs_a_reference():
    objective = build("ddpo", kl_weight=0.5)
    assert objective.needs_reference and not build("ddpo").needs_reference
    zero = torch.zeros(3)
    result = objective(zero, zero, zero, kl=torch.tensor([1.0, 2.0, 3.0]))
    assert result.loss == 1 and result.logs["loss/kl"] == 1 and result.logs["loss/policy"] == 0
    with pytest.raises(UserError, match="needs the kl"):
        objective(zero, zero, zero)


def test_the_gradient_is_that_of_the_function():
    generator = torch.Generator().manual_seed(1)
    # Away from the corners of the clipping, where there is no gradient.
    old, advantages, kl = (torch.randn(8, dtype=torch.float64, generator=generator) for _ in range(3))
    log_probs = (old + 0.3 * torch.randn(8, dtype=torch.float64, generator=generator)).requires_grad_()
    objective = build("ddpo", clip_range=0.05, kl_weight=2.0)
    kl = kl.abs().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *inputs: objective(inputs[0], old, advantages, inputs[1]).loss, (log_probs, kl)
    )


@pytest.mark.parametrize("settings", [{"clip_range": 0}, {"advantage_clip": -1}, {"kl_weight": -0.1}, {"beta": 1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        build("ddpo", **settings)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(UserError, match="one number per step"):
        build("ddpo")(torch.zeros(3), torch.zeros(3, 1), torch.zeros(3))
