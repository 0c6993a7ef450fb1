"""The lines of a log file, and the bar of a terminal."""

from types import SimpleNamespace

import pytest

from mapolab.training.progress import ProgressBar, ProgressLines, describe

ROW = {"loss": 0.03125, "implicit_accuracy": 0.75, "samples_per_second": 12.06, "margin": 1.0}


def passes(callback, steps: int) -> None:
    """Two forward passes a step."""
    for batch in range(2 * steps):
        trainer = SimpleNamespace(accumulate_grad_batches=2, global_step=(batch + 1) // 2, max_steps=steps)
        if batch == 0:
            callback.on_train_start(trainer, None)
        callback.on_train_batch_end(trainer, None, None, None, batch)


@pytest.mark.parametrize(
    ("steps", "every", "said"), [(40, 1, [1, *range(4, 41, 4)]), (40, 15, [1, 15, 30, 40]), (3, 1, [1, 2, 3])]
)
def test_lines_come_ten_times_a_run_at_most(capsys, steps, every, said):
    passes(ProgressLines(SimpleNamespace(latest=ROW), "mapo", every), steps)
    figures = "loss 0.0312  accuracy 0.75  12.1 samples/s"
    assert describe(ROW) == figures
    assert capsys.readouterr().out.splitlines() == [f"mapo  step {step}/{steps}  {figures}" for step in said]


def test_the_bar_counts_optimizer_steps():
    bar = ProgressBar(SimpleNamespace(latest=ROW), "mapo")
    bar.bar.disable = True
    passes(bar, 5)
    assert (bar.bar.tasks[0].completed, bar.bar.tasks[0].total) == (5, 5)
    assert bar.bar.tasks[0].fields["figures"] == describe(ROW)
