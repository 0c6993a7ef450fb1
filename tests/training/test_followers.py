"""What follows the trained weights, to the digit: the average of a run, and a reference that moves."""

import pytest
import torch
from torch import nn

from mapolab.models.reference import MovingCopy
from mapolab.training.ema import ExponentialMovingAverage


class Run:
    """As much of a trainer as the average looks at: two forward passes a step."""

    accumulate_grad_batches = 2
    global_step = 0


class Module(nn.Module):
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def trained_weights(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}


def test_the_average_is_the_sum_that_its_formula_says():
    """a = d a + (1 - d) w with d = min(0.3, (1 + n) / (10 + n)): 2/11, 1/4, then 0.3."""
    average, run, module = ExponentialMovingAverage(0.3), Run(), Module()
    average.on_fit_start(run, module)
    expected = 0.0
    for step, (weight, decay) in enumerate([(11.0, 2 / 11), (4.0, 1 / 4), (10.0, 0.3), (-2.0, 0.3)], 1):
        module.weight.data.fill_(weight)
        for batch in (2 * step - 2, 2 * step - 1):
            run.global_step = step if batch % 2 else step - 1
            average.on_train_batch_end(run, module, None, None, batch)
        expected = decay * expected + (1 - decay) * weight
        assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-6)
    # 9 x 1 = 9; 9/4 + 3 = 5.25; 1.575 + 7 = 8.575; 2.5725 - 1.4 = 1.1725
    assert expected == pytest.approx(1.1725)


def test_the_average_of_half_precision_weights_is_kept_in_float32():
    """Steps of 1/512 of the weight are lost in bfloat16, whose numbers near 1 are 1/128 apart."""
    average, run, module = ExponentialMovingAverage(0.5), Run(), Module()
    module.weight.data = torch.ones(1, dtype=torch.bfloat16)
    average.on_fit_start(run, module)
    module.weight.data.fill_(1 + 1 / 128)
    run.global_step = 1000
    for decayed in (1 / 2, 3 / 4, 7 / 8):
        average.on_train_batch_end(run, module, None, None, 1)
        assert average.weights["weight"].item() == 1 + decayed / 128


def test_a_moving_reference_goes_a_share_of_one_minus_decay():
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    model.weight.data.fill_(8.0)
    reference = MovingCopy(model, decay=0.75)
    for step, (weight, expected) in enumerate([(0.0, 6.0), (2.0, 5.0), (-3.0, 3.0)], 1):
        model.weight.data.fill_(weight)
        reference.follow(step)
        assert reference.weights["weight"].item() == expected
    assert list(reference.weights) == ["weight"]


def test_a_refreshed_reference_stands_still_between():
    model = nn.Linear(1, 1)
    model.weight.data.fill_(8.0)
    reference = MovingCopy(model, refresh_every=2)
    for step, expected in enumerate([8.0, 2.0, 2.0, 4.0], 1):
        model.weight.data.fill_(float(step))
        reference.follow(step)
        assert reference.weights["weight"].item() == expected
