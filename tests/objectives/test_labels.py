"""Labels and weights: ties, single images, and factors of the losses."""

import math
from dataclasses import replace

import pytest
import torch
from random_pairs import SETTINGS, random_errors

from mapolab.objectives import PairErrors, build

ALL = pytest.mark.parametrize("name", SETTINGS)


@ALL
def test_labels_of_one_and_weights_of_one_change_nothing(name):
    errors = random_errors()
    ones = torch.ones_like(errors.chosen)
    plain, marked = (
        build(name, **SETTINGS[name])(errors),
        build(name, **SETTINGS[name])(replace(errors, labels=ones, weights=ones)),
    )
    assert torch.equal(plain.loss, marked.loss)
    assert plain.logs.keys() == marked.logs.keys()


@ALL
def test_a_weight_multiplies_a_pair_and_its_gradient(name):
    errors = replace(random_errors(), chosen=random_errors().chosen.requires_grad_())
    weights = torch.tensor([1.0, 0.5, 0.25, 0.0, 2.0, 1.0], dtype=torch.float64)
    objective = build(name, **SETTINGS[name])
    plain, weighted = objective(errors), objective(replace(errors, weights=weights))
    torch.testing.assert_close(weighted.per_sample, plain.per_sample * weights)
    assert weighted.loss.item() == pytest.approx((plain.per_sample * weights).mean().item())
    assert sum(weighted.logs[key] for key in weighted.logs if key.startswith("loss/")).item() == pytest.approx(
        weighted.loss.item()
    )
    (gradient,), (plain_gradient,) = (torch.autograd.grad(result.loss, errors.chosen) for result in (weighted, plain))
    if name != "diffusion_kto":  # whose z0 is the batch's
        torch.testing.assert_close(gradient, plain_gradient * weights)


def test_a_tie_under_dpo_is_a_cross_entropy_with_one_half():
    #                        decided, tied, tied at a margin of 0
    margin = torch.tensor([0.3, 0.3, 0.0], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    errors = PairErrors(zero, margin, zero, zero, labels=torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64))
    result = build("diffusion_dpo", beta=10)(errors)
    won, lost = math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(1.5))  # B/2 margin = 1.5
    assert result.per_sample.tolist() == pytest.approx([won, (won + lost) / 2, math.log(2)])
    assert result.logs["implicit_accuracy"].item() == pytest.approx((1 + 0.5 + 0.5) / 3)  # a tie is never a win


def test_kto_of_single_images():
    #                     liked and better, liked and worse, disliked and worse
    gain = torch.tensor([0.02, -0.01, -0.04], dtype=torch.float64)  # mean -0.01: the reference point is 0
    reference = torch.full((3,), 0.5, dtype=torch.float64)
    labels = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    objective = build("diffusion_kto", beta=100)
    result = objective(PairErrors(reference - gain, None, reference, None, labels))
    expected = [1 - 1 / (1 + math.exp(-utility)) for utility in (2.0, -1.0, 4.0)]
    assert result.per_sample.tolist() == pytest.approx(expected)
    assert result.logs["loss/liked"].item() == pytest.approx(sum(expected[:2]) / 3)
    raised = objective(
        PairErrors(reference - gain - 0.05, None, reference, None, labels)
    )  # gains 0.07 0.04 0.01, mean 0.04
    expected = [1 - 1 / (1 + math.exp(-utility)) for utility in (3.0, 0.0, 3.0)]
    assert raised.per_sample.tolist() == pytest.approx(expected)


def test_gradients_of_ties():
    labels = torch.tensor([1.0, 0.5, 0.5, 1.0, 1.0, 0.5], dtype=torch.float64)
    objective = build("diffusion_dpo", beta=3)
    errors = [tensor.requires_grad_() for tensor in list(vars(random_errors()).values())[:4]]
    assert torch.autograd.gradcheck(lambda *given: objective(PairErrors(*given, labels)).loss, errors)


def test_gradients_of_single_images():
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    objective = build("diffusion_kto", beta=3)
    chosen = random_errors().chosen.requires_grad_()
    # z0 takes no gradient by design; it stays at its floor of 0 here, since every gain is negative.
    reference = torch.zeros(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda given: objective(PairErrors(given, None, reference, None, labels)).loss, [chosen]
    )
