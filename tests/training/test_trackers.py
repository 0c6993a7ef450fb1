"""A continued run goes on in the record that it began."""

import shutil

from mapolab.files import read_json, write_json
from mapolab.runs import RunFolder
from mapolab.training.run import train


def test_tensorboard_has_one_curve_with_each_step_once(train_config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_config["logger"] = {
        "_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": "tensorboard", "version": "",
    }  # fmt: skip
    run = train(train_config)
    # As after a kill between steps 4 and 6, whose rows were logged already.
    for later in ("unet", "checkpoints/step-00000006"):
        shutil.rmtree(run / later)
    write_json(run / "manifest.json", read_json(run / "manifest.json") | {"status": "running"})
    train(train_config)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(6))


def test_a_runs_name_at_a_tracker_is_drawn_once(tmp_path):
    one, other = RunFolder(tmp_path / "a" / "mapo-seed0"), RunFolder(tmp_path / "b" / "mapo-seed0")
    assert one.tracker_id() == one.tracker_id() == RunFolder(one.path).tracker_id()
    assert one.tracker_id() != other.tracker_id()
