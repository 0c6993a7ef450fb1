"""The losses of the field's other methods: values by hand, gradients, and what they become at their limits."""

import math

import pytest
import torch
from random_pairs import MILD, errors_of, random_predictions

from mapolab.objectives import PairErrors, build


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def at_margin(margin, labels=None):
    """Pairs with these margins m = -[(e_w - e_l) - (r_w - r_l)]."""
    rejected = torch.tensor(margin, dtype=torch.float64).requires_grad_()
    zero = torch.zeros(len(margin), dtype=torch.float64)
    labels = None if labels is None else torch.tensor(labels, dtype=torch.float64)
    return PairErrors(zero, rejected, zero, zero, labels)


@pytest.mark.parametrize("name", [name for name in MILD if name != "sdpo"])
def test_gradients_are_right_down_to_the_predictions(name):
    """By finite differences, through errors and products; the safeguard's gradient is not its value's (below)."""
    chosen, rejected, *references = random_predictions(batch=3)
    objective = build(name, **MILD[name])
    if name == "diffusion_kto":  # z0 takes no gradient: keep it at its floor
        references = [value * 0.1 for value in references]
    assert torch.autograd.gradcheck(
        lambda *given: objective(errors_of(*given, *references)).loss,
        [chosen.requires_grad_(), rejected.requires_grad_()],
    )


@pytest.mark.parametrize("name", ("diffusion_dpo", "cdpo", "inpo", "smpo", "sdpo"))
def test_the_dpo_family_starts_at_log_two(name):
    chosen, rejected, *_ = random_predictions()
    loss = build(name, **MILD[name])(errors_of(chosen, rejected, chosen, rejected)).loss
    assert loss.item() == pytest.approx(math.log(2), rel=1e-12)


def test_conservative_dpo():
    #            u = 0, 2, -4 at B = 2
    margins = [0.0, 2.0, -4.0]
    found = build("cdpo", beta=2, label_smoothing=0.1)(at_margin(margins)).per_sample.tolist()
    expected = [-0.9 * math.log(sigmoid(u)) - 0.1 * math.log(sigmoid(-u)) for u in margins]
    assert found == pytest.approx(expected, rel=1e-12)
    dpo = build("diffusion_dpo", beta=2)(at_margin(margins))
    assert torch.equal(build("cdpo", beta=2, label_smoothing=0.0)(at_margin(margins)).per_sample, dpo.per_sample)
    # A pair whose label is right with probability 0.9 is the same thing.
    soft = build("diffusion_dpo", beta=2)(at_margin(margins, [0.9] * 3))
    assert soft.per_sample.tolist() == pytest.approx(expected, rel=1e-12)
    best = at_margin([math.log(0.9 / 0.1)])
    build("cdpo", beta=2, label_smoothing=0.1)(best).loss.backward()
    assert best.rejected.grad.item() == pytest.approx(0, abs=1e-12)


def test_ipo_draws_the_margin_to_its_end():
    errors = at_margin([0.0, 0.25, 1.0])  # 1 / (2 B) = 0.25
    result = build("ipo", beta=2)(errors)
    assert result.per_sample.tolist() == pytest.approx([0.25, 0.0, 2.25], rel=1e-12)
    result.loss.backward()
    assert errors.rejected.grad.tolist() == pytest.approx([-2.0 / 3, 0.0, 6.0 / 3], rel=1e-12)


def test_dmpo_is_the_divergence_the_other_way_round():
    alpha = 0.01
    end = math.log((1 - alpha) / alpha)
    found = build("dmpo", beta=2, alpha=alpha)(at_margin([0.0, end, -3.0])).per_sample.tolist()
    model = [0.5, 1 - alpha, sigmoid(-3.0)]
    divergence = [s * math.log(s / (1 - alpha)) + (1 - s) * math.log((1 - s) / alpha) for s in model]
    assert found == pytest.approx(divergence, rel=1e-9, abs=1e-12)
    assert found[1] == pytest.approx(0, abs=1e-12)
    # Conservative DPO is the divergence from the annotators to the model, up to their entropy.
    entropy = -alpha * math.log(alpha) - (1 - alpha) * math.log(1 - alpha)
    forward = [(1 - alpha) * math.log((1 - alpha) / s) + alpha * math.log(alpha / (1 - s)) for s in model]
    smoothed = build("cdpo", beta=2, label_smoothing=alpha)(at_margin([0.0, end, -3.0])).per_sample.tolist()
    assert smoothed == pytest.approx([value + entropy for value in forward], rel=1e-9)


def test_dspo_in_scalars_is_its_formula_in_tensors():
    chosen, rejected, reference_chosen, reference_rejected = random_predictions()
    errors = errors_of(chosen, rejected, reference_chosen, reference_rejected)
    logits = -1.0 * ((errors.chosen - errors.rejected) - (errors.reference_chosen - errors.reference_rejected))
    step = 0.5 * (1 - torch.sigmoid(logits))[:, None]
    expected = (chosen - step * (chosen - reference_chosen)).square().mean(1)
    result = build("dspo", beta=2, strength=0.5)(errors)
    torch.testing.assert_close(result.per_sample, expected, rtol=1e-12, atol=0)
    # Where the model is still the reference it is SFT.
    start = build("dspo", beta=2, strength=0.5)(errors_of(chosen, rejected, chosen, rejected))
    torch.testing.assert_close(start.per_sample, errors.chosen, rtol=1e-12, atol=0)


def test_the_safeguard_scales_the_losers_gradient_alone():
    """Two numbers a prediction. First pair: e_w = 0.5, product 1, so the scale is 0.4 x 0.5 / 1 = 0.2; second pair: the
    gradients point away from each other, scale 1; third: 0.4 x 8 / 1 is above 1, scale 1."""
    chosen = torch.tensor([[1.0, 0.0], [1.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    rejected = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.5, 3.0]], dtype=torch.float64)
    references = [torch.full((3, 2), size, dtype=torch.float64) for size in (0.3, 0.7)]
    gradients = {}
    for name in ("diffusion_dpo", "sdpo"):
        given = [chosen.clone().requires_grad_(), rejected.clone().requires_grad_()]
        result = build(name, **MILD[name])(errors_of(*given, *references))
        result.loss.backward()
        gradients[name] = result.loss.item(), given[0].grad, given[1].grad
    assert result.logs["rejected_scale"].item() == pytest.approx((0.2 + 1 + 1) / 3)
    (base, base_chosen, base_rejected), (loss, by_chosen, by_rejected) = gradients.values()
    assert loss == base and torch.equal(by_chosen, base_chosen)
    scale = torch.tensor([[0.2], [1.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(by_rejected, scale * base_rejected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mu", (0.0, 0.6))
def test_a_safeguarded_step_never_raises_the_winners_error(mu):
    """Where model and predictions are one: a small step along -(g_w - l g_l) keeps at least the share mu of descent."""
    chosen, rejected, *_ = random_predictions(batch=200, seed=3)
    errors = errors_of(chosen, rejected, chosen, rejected)
    from mapolab.objectives.sdpo import safeguard

    step = -(chosen - safeguard(errors, mu)[:, None] * rejected)
    slope = (step * chosen).sum(1)
    assert (slope <= -mu * chosen.square().sum(1) + 1e-9).all()


@pytest.mark.parametrize(
    "base", ({"name": "dspo", "beta": 1, "strength": 0.5}, {"name": "dmpo", "beta": 1, "alpha": 0.01})
)
def test_a_safeguard_that_never_acts_is_its_base(base):
    chosen, rejected, *references = random_predictions()
    rejected = -chosen + 0.1 * rejected  # the gradients point away from each other: scale 1
    found = []
    for objective in (build(**base), build("sdpo", base=base, mu=0.6)):
        given = [chosen.clone().requires_grad_(), rejected.clone().requires_grad_()]
        loss = objective(errors_of(*given, *references)).loss
        found.append([loss, *torch.autograd.grad(loss, given)])
    assert all(torch.equal(plain, guarded) for plain, guarded in zip(*found, strict=True))


def test_smpo_follows_how_sure_the_annotators_are():
    margins = [1.0, 1.0, -2.0]
    errors = at_margin(margins, [1.0, 0.5, 0.8])
    result = build("smpo", beta=2, sharpness=10)(errors)
    expected = [-math.log(sigmoid(10.0)), math.log(2), -math.log(sigmoid(10 * 0.6 * -2.0))]
    assert result.per_sample.tolist() == pytest.approx(expected, rel=1e-12)
    result.loss.backward()
    assert errors.rejected.grad[1] == 0
    sure, dpo = build("smpo", beta=2, sharpness=1), build("diffusion_dpo", beta=2)
    torch.testing.assert_close(sure(at_margin(margins)).per_sample, dpo(at_margin(margins)).per_sample)


def test_inpo_is_dpo_but_for_its_noise():
    errors = errors_of(*random_predictions())
    inpo, dpo = build("inpo", beta=2), build("diffusion_dpo", beta=2)
    assert torch.equal(inpo(errors).per_sample, dpo(errors).per_sample)
    assert (inpo.needs_inversion, dpo.needs_inversion) == ("ddim_inversion", None)
