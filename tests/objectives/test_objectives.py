"""Properties: the link's accuracy, what each objective needs, and clear errors."""

import math
import re
import textwrap
from dataclasses import replace
from decimal import Decimal, getcontext
from pathlib import Path

import pytest
import torch
from random_pairs import MILD, SETTINGS, random_errors

from mapolab.errors import UserError
from mapolab.objectives import PairErrors, build, names
from mapolab.objectives._link import log_phi, phi

ALL = pytest.mark.parametrize("name", SETTINGS)


PRODUCTS = "chosen_reference_product", "chosen_rejected_product"


def of_pairs(errors, change):
    """The errors with each tensor changed."""
    return PairErrors(**{name: None if value is None else change(value) for name, value in vars(errors).items()})


def exact_link(x: float) -> tuple[float, float]:
    """phi(x) and its slope in 60 digits."""
    getcontext().prec = 60
    number = Decimal(x)
    growth = number.exp()
    return float(number / (growth - 1)), float((growth - 1 - number * growth) / (growth - 1) ** 2)


def test_every_objective_is_tested_here():
    assert {*SETTINGS, "ddpo"} == set(names())  # which learns from no pairs: test_ddpo.py


@pytest.mark.parametrize("exponent", range(-12, 5))
@pytest.mark.parametrize("digit", (1.0, 3.3, 9.7))
def test_link_is_exact_in_value_and_slope(exponent, digit):
    x = torch.tensor(min(digit * 10.0**exponent, 1e4), dtype=torch.float32, requires_grad=True)
    value = phi(x.double())
    value.backward()
    golden, slope = exact_link(x.item())
    # What float32 can hold: below 1e-38 a result is 0 in float32.
    assert value.item() == pytest.approx(golden, rel=1e-6, abs=1e-38)
    assert x.grad.item() == pytest.approx(slope, rel=1e-6, abs=1e-38)


@pytest.mark.parametrize("x", (0.0, 1e-30, 1e6, 1e30))
def test_link_is_finite_everywhere(x):
    error = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    log_phi(error).backward()
    assert math.isfinite(log_phi(error).item())
    assert error.grad.item() == pytest.approx(-0.5 if x < 1 else -1.0, rel=1e-5)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("scale", (0.0, 1e-12, 1e4, 1e6))
@pytest.mark.parametrize(("name", "settings"), [*SETTINGS.items(), ("mapo", {"beta": 1024})])
def test_losses_and_gradients_are_finite_at_any_size(name, settings, scale, dtype):
    factors = (1.0, 0.5, 0.7, 0.9)
    sizes = [torch.full((3,), scale * factor, dtype=dtype).requires_grad_() for factor in factors]
    products = {name: torch.full((3,), scale * 0.6, dtype=dtype) for name in PRODUCTS}
    errors = PairErrors(*sizes, **products)
    result = build(name, **settings)(errors)
    result.loss.backward()
    assert result.loss.dtype == dtype
    assert torch.isfinite(result.loss)
    gradients = [tensor.grad for tensor in sizes]
    assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)


def test_mapo_keeps_its_pull_where_the_link_underflows():
    """At beta 1024 the likelihood of errors this large is 0 to the last bit: SFT's gradient is left, and no NaN."""
    chosen, rejected = (torch.tensor([value], requires_grad=True) for value in (5.0, 9.0))
    build("mapo", beta=1024)(PairErrors(chosen, rejected)).loss.backward()
    assert (chosen.grad.item(), rejected.grad.item()) == (1.0, 0.0)


@pytest.mark.parametrize("size", (20.0, 40.0, 300.0))
def test_log_sigmoid_keeps_its_digits_when_saturated(size):
    """Where s(x) rounds to 1, the slope of -log s(x) is still -exp(-x)."""
    zero, gain = torch.zeros(1, dtype=torch.float64), torch.tensor([size], dtype=torch.float64)
    chosen = zero.clone().requires_grad_()
    build("diffusion_dpo", beta=2.0)(PairErrors(chosen, zero, gain, zero)).loss.backward()
    assert chosen.grad.item() == pytest.approx(math.exp(-size) / (1 + math.exp(-size)), rel=1e-12)


@ALL
def test_terms_and_samples_add_up_and_order_does_not_matter(name):
    objective, errors = build(name, **SETTINGS[name]), random_errors()
    result = objective(errors)
    assert result.per_sample.mean().item() == pytest.approx(result.loss.item(), rel=1e-12)
    terms = [value.item() for key, value in result.logs.items() if key.startswith("loss/")]
    assert sum(terms) == pytest.approx(result.loss.item(), rel=1e-12)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    shuffled = objective(of_pairs(errors, lambda tensor: tensor[order]))
    torch.testing.assert_close(shuffled.per_sample, result.per_sample[order])


@ALL
def test_descent_prefers_the_chosen_image(name):
    """A step along the negative gradient never raises the chosen error, and never lowers the rejected one.

    From the reference itself, where all runs start: the losses with an end turn round behind it.
    """
    errors = of_pairs(random_errors(), lambda tensor: tensor.clone())
    start = replace(errors, reference_chosen=errors.chosen, reference_rejected=errors.rejected)
    errors = of_pairs(replace(start, chosen_reference_product=errors.chosen), lambda tensor: tensor.clone())
    errors.chosen.requires_grad_()
    errors.rejected.requires_grad_()
    build(name, **MILD[name])(errors).loss.backward()
    assert (errors.chosen.grad > 0).all()
    if name != "sft":
        assert (errors.rejected.grad <= 0).all()
        # DSPO leaves the rejected image alone until the model has moved.
        assert (errors.rejected.grad < 0).any() or name == "dspo"


def test_sft_needs_and_logs_chosen_images_only():
    objective = build("sft")
    result = objective(PairErrors(torch.tensor([0.1, 0.3])))
    assert (objective.needs_rejected, objective.needs_reference) == (False, False)
    assert result.loss.item() == pytest.approx(0.2)
    assert set(result.logs) == {"loss/sft", "error_chosen"}


def test_kto_takes_its_reference_point_over_all_ranks():
    """Two ranks with half a batch each, sharing z0, average to one process with the whole batch."""
    errors = random_errors()
    whole = build("diffusion_kto", beta=2.0)
    gains = torch.cat([errors.reference_chosen - errors.chosen, errors.reference_rejected - errors.rejected])
    halves = [of_pairs(errors, lambda tensor, part=part: tensor[part]) for part in (slice(0, 3), slice(3, 6))]
    rank = type(whole)(beta=2.0, mean_over_ranks=lambda mean: gains.mean())
    assert sum(rank(half).loss for half in halves).item() / 2 == pytest.approx(whole(errors).loss.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("mapoo", {}, "Did you mean mapo"),
        ("mapo", {}, "needs a value for beta"),
        ("mapo", {"beta": 0}, "above 0"),
        ("mapo", {"beta": float("nan")}, "above 0"),
        ("mapo", {"beta": "8"}, "above 0"),
        ("orpo", {"bta": 1}, "no setting bta"),
        ("sft", {"beta": 1}, "no settings"),
        ("cdpo", {"beta": 1, "label_smoothing": 0.5}, "from 0 to below 0.5"),
        ("dmpo", {"beta": 1, "alpha": 0}, "between 0 and 0.5"),
        ("sdpo", {"base": {"name": "sft"}, "mu": 0.6}, "objective on pairs"),
        ("sdpo", {"base": 3, "mu": 0.6}, "objective on pairs"),
        ("sdpo", {"base": {"name": "dmpo", "beta": 1}, "mu": 0.6}, "dmpo needs a value for alpha"),
        ("diffusion_kto", {"beta": 1, "mean_over_ranks": 1}, "no setting mean_over_ranks"),
    ],
)
def test_mistakes_are_named(name, settings, said):
    with pytest.raises(UserError, match=said):
        build(name, **settings)


def test_the_docs_print_how_the_two_forms_of_mapo_push(capsys):
    """By hand: -(phi^B)'(0.1) / (2 B) for the paper's form, -T b k phi'(0.05) / 2 for the program's, k = 0.5."""
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    exec(textwrap.dedent(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]), {})
    slope = -link_slope(0.1) / 2
    pushes = [math.exp(beta * log_link(0.1)) * slope for beta in (8, 64)]
    pushes.append(1000 * 0.1 * 0.5 * math.exp(log_link(0.05)) * -link_slope(0.05) / 2)
    names = ("mapo", "mapo", "mapo_reference")
    printed = [f"{name} {push:.2f} per unit of error" for name, push in zip(names, pushes, strict=True)]
    assert capsys.readouterr().out.splitlines() == printed
    assert [line.split()[1] for line in printed] == ["0.17", "0.01", "12.29"]


def log_link(x: float) -> float:
    """log(x / (exp(x) - 1))"""
    return math.log(x / math.expm1(x))


def link_slope(x: float) -> float:
    """d/dx of it."""
    return 1 / x - 1 - 1 / math.expm1(x)


def test_margin_is_the_methods_own():
    """A method without a reference logs e_l - e_w even if reference errors are at hand; the others subtract theirs."""
    values = [torch.tensor([value], dtype=torch.float64) for value in (0.2, 0.3, 0.1, 0.5)]
    errors = PairErrors(*values, **dict.fromkeys(PRODUCTS, values[2]))
    logs = {name: build(name, **settings)(errors).logs for name, settings in SETTINGS.items()}
    references = {name for name in SETTINGS if build(name, **SETTINGS[name]).needs_reference}
    assert {name for name in logs if logs[name]["implicit_accuracy"] == 0} == references
    assert logs["mapo"]["margin"].item() == pytest.approx(0.1)
    assert logs["diffusion_dpo"]["margin"].item() == pytest.approx(-0.3)
    assert not any(value.requires_grad for curves in logs.values() for value in curves.values())


@pytest.mark.parametrize("rejected", (torch.ones(3, 1), torch.ones(2), torch.ones(3, dtype=torch.long)))
def test_errors_that_would_broadcast_or_truncate_are_refused(rejected):
    with pytest.raises(UserError, match="one shape"):
        build("mapo", beta=8)(PairErrors(torch.ones(3), rejected))


def test_missing_errors_are_named():
    with pytest.raises(UserError, match="reference_chosen, reference_rejected"):
        build("diffusion_dpo", beta=1)(PairErrors(torch.ones(2), torch.ones(2)))
