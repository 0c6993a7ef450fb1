"""A loss or gradient that is not finite stops the run before the update."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from mapolab import checksums
from mapolab.data.order import GlobalOrder
from mapolab.data.prepared.units import Unit
from mapolab.runs import RunFolder
from mapolab.training.metrics import MetricsFile
from mapolab.training.module import AlignmentModule
from mapolab.training.record import NonFiniteError
from mapolab.training.run import train


def poison(run: Path, image: int) -> None:
    """Make one cached image NaN, as if it had been encoded so: with the checksums of that."""
    cache = next((run.parents[1] / ".cache").glob("*/manifest.json")).parent
    note = checksums.read_json(cache / "images" / "00000.json")
    unit = Unit(cache, "images/00000", note["cache"])
    tensors = {name: tensor.clone() for name, tensor in unit.read().items()}
    tensors["means/0"][image] = float("nan")
    unit.write(tensors, broken=note["broken"])
    manifest = checksums.read_json(cache / "manifest.json")
    written = {key: value for key, value in (unit.note() or {}).items() if key in ("bytes", "sha256", "crc32")}
    manifest["files"]["images/00000.safetensors"] = written
    checksums.write_json(cache / "manifest.json", manifest)


def test_a_loss_that_is_no_number_stops_before_the_update(train_config, monkeypatch):
    one_step = copy.deepcopy(train_config)
    one_step["trainer"]["max_steps"] = 1
    poison(train(one_step), image=4)
    modules = []
    start = AlignmentModule.on_fit_start
    monkeypatch.setattr(AlignmentModule, "on_fit_start", lambda self: modules.append(self) or start(self))
    with pytest.raises(NonFiniteError, match=r"Step \d+: the loss of the samples at positions \[\d+") as stopped:
        train(train_config)
    assert all(torch.isfinite(parameter).all() for parameter in modules[0].unet.parameters())

    runs = [RunFolder(path) for path in Path(train_config["output_root"]).glob("test/*")]
    run = next(folder.path for folder in runs if folder.manifest()["status"] == "failed")
    steps = len(MetricsFile(run / "metrics.csv").rows())
    named = [int(number) for number in str(stopped.value).split("[")[1].split("]")[0].split(",")]
    assert f"Step {steps}:" in str(stopped.value)
    assert all(4 * steps <= position < 4 * steps + 4 for position in named)
    # The positions lead to the poisoned image, that of row 2.
    order = GlobalOrder(train_config["seed"], np.arange(10))
    for position in range(4 * steps, 4 * steps + 4):
        assert (position in named) == (order.row(position) == 2)


def test_a_gradient_that_is_no_number_stops_before_the_update(train_config, monkeypatch):
    """Finite losses, but one parameter's gradient overflows in the third step."""
    modules = []
    start = AlignmentModule.on_fit_start

    def with_overflow(self):
        modules.append(self)
        bias = self.unet.conv_out.bias
        bias.register_hook(lambda gradient: gradient * float("inf") if self.trainer.global_step == 2 else gradient)
        start(self)

    monkeypatch.setattr(AlignmentModule, "on_fit_start", with_overflow)
    with pytest.raises(NonFiniteError, match=r"Step 2: the gradient is not finite \(the step's positions: 8 to 11"):
        train(train_config)
    assert all(torch.isfinite(parameter).all() for parameter in modules[0].unet.parameters())
    run = next(Path(train_config["output_root"]).glob("test/*"))
    assert RunFolder(run).manifest()["status"] == "failed"
    assert len(MetricsFile(run / "metrics.csv").rows()) == 2
