"""What a command does with the folder that it finds."""

import copy
import shutil
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mapolab.errors import RunError, UserError, disk_fault
from mapolab.evaluation.models import base_of, find_models
from mapolab.files import read_json, write_json
from mapolab.models.sdxl import SDXL
from mapolab.runs import RunFolder
from mapolab.sweeps.folder import Job
from mapolab.sweeps.state import job_state
from mapolab.training.metrics import MetricsFile
from mapolab.training.run import train


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "unet" / "diffusion_pytorch_model.safetensors")


def changed(config: dict, **blocks) -> dict:
    """A copy of a config with some keys of its blocks replaced: `changed(config, trainer={"max_steps": 2})`."""
    config = copy.deepcopy(config)
    for name, block in blocks.items():
        config[name] = {**config[name], **block} if isinstance(block, dict) and name != "objective" else block
    return config


def test_the_same_command_finds_the_finished_run(train_config, capsys, monkeypatch):
    run = train(train_config)
    before = (run / "manifest.json").read_bytes()
    monkeypatch.setattr(SDXL, "load_unet", lambda self: pytest.fail("a finished run loads nothing"))
    # What only changes how a run is watched does not make it another run.
    assert train(changed(train_config, trainer={"log_every": 3}, data={"num_workers": 1})) == run
    assert "is finished" in capsys.readouterr().out
    assert (run / "manifest.json").read_bytes() == before


def test_a_run_killed_after_its_last_step_has_only_its_weights_to_write(train_config):
    config = changed(train_config, trainer={"ema_decay": 0.9})
    run = train(config)
    before, curves = weights(run), MetricsFile(run / "metrics.csv").rows()
    shutil.rmtree(run / "unet")
    RunFolder(run).update(status="running")
    assert train(config) == run
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(run).items())
    assert MetricsFile(run / "metrics.csv").rows() == curves
    assert RunFolder(run).manifest()["status"] == "finished"


def test_a_run_whose_weights_are_gone_is_not_finished(train_config, capsys):
    config = changed(train_config, trainer={"checkpoint_every": 4})
    run = train(config)
    before = weights(run)
    shutil.rmtree(run / "unet")
    assert not RunFolder(run).finished
    state = job_state(Job(0, [], run), {})
    assert (state.state, state.note) == ("failed", "finished, but its weights are gone")
    train(config)
    assert "was finished, but its weights are gone" in capsys.readouterr().out
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(run).items())
    assert job_state(Job(0, [], run), {}).state == "finished"


def test_a_run_does_not_go_on_from_another_model(train_config, tiny_pipeline_folder, tmp_path):
    """Under the same name: the whole model is known by its content."""
    model = shutil.copytree(tiny_pipeline_folder, tmp_path / "model")
    config = changed(train_config, model={"pretrained": str(model)})
    run = train(config)
    scheduler = model / "scheduler" / "scheduler_config.json"
    before = scheduler.read_text()
    scheduler.write_text(before.replace("0.012", "0.013"))
    with pytest.raises(UserError, match="its scheduler has changed since"):
        train(config)
    with pytest.raises(UserError, match="its scheduler has changed since"):
        find_models(str(run), tmp_path)[0].check()
    shutil.rmtree(run / "unet")  # it would go on from its last checkpoint
    with pytest.raises(UserError, match="its scheduler has changed since"):
        train(config)
    scheduler.write_text(before)
    train(config)
    vae = model / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(vae).items()}, vae)
    began = RunFolder(run).manifest()["model_files"]
    with pytest.raises(UserError, match="its vae has changed since"):
        base_of(config, tmp_path, began).check()


def test_a_model_that_is_not_whole_does_not_claim_the_folder(train_config, tiny_pipeline_folder, tmp_path):
    model = shutil.copytree(tiny_pipeline_folder, tmp_path / "model")
    config = changed(train_config, model={"pretrained": str(model)}, output_dir=str(tmp_path / "mine"))
    file = model / "text_encoder" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items() if ".layers.0." not in name}
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"lack encoder\.layers\.0"):
        train(config)
    assert not RunFolder(tmp_path / "mine").manifest()


def test_another_config_in_the_folder_is_refused(train_config, tmp_path):
    config = changed(train_config, output_dir=str(tmp_path / "mine"))
    train(config)
    with pytest.raises(UserError, match=r"another config \(trainer.max_steps: 6 -> 7\)"):
        train(changed(config, trainer={"max_steps": 7}))


def test_a_run_from_before_a_default_is_continued_with_what_it_did_and_else_refused(train_config, tmp_path):
    """Images of different sizes, whose own time ids were all that there was."""
    own = changed(train_config, data={"micro_conditioning": "own"})
    begun = train(own)
    whole = weights(begun)
    # As an earlier version leaves a run that was stopped after four of six steps.
    before = changed(own)
    del before["data"]["micro_conditioning"]
    (begun / "config.yaml").write_text(yaml.safe_dump(before))
    for rest in ("unet", "checkpoints/step-00000006"):
        shutil.rmtree(begun / rest)
    RunFolder(begun).update(status="interrupted")
    with pytest.raises(UserError, match=r"before data.micro_conditioning existed.* data.micro_conditioning=own to"):
        train(train_config)
    with pytest.raises(UserError, match=r"another config \(data.micro_conditioning: own -> fixed\)"):
        train(changed(train_config, output_dir=str(begun)))
    assert train(own) == begun
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(begun).items())
    fixed = weights(train(train_config))  # the earlier run is finished now, and another one
    assert any(not torch.equal(tensor, fixed[name]) for name, tensor in whole.items())


def test_a_mistake_does_not_claim_the_folder(train_config, tmp_path):
    config = changed(train_config, output_dir=str(tmp_path / "mine"))
    with pytest.raises(UserError, match="beta"):
        train(changed(config, objective={"name": "mapo", "beta": -1.0}))
    train(config)


def test_two_processes_cannot_share_a_run(train_config, tmp_path):
    folder = RunFolder(tmp_path / "mine")
    with folder.locked(), pytest.raises(UserError, match="Another process"):
        train(changed(train_config, output_dir=str(folder.path)))


def unfinished(run: Path) -> None:
    """As a run is left that was stopped after its last checkpoint."""
    shutil.rmtree(run / "unet")
    RunFolder(run).update(status="interrupted")


def test_a_checkpoint_of_another_run_is_refused_by_name(train_config, tmp_path):
    run, other = (train(changed(train_config, output_dir=str(tmp_path / name), seed=seed)) for name, seed in
                  (("one", 3), ("other", 4)))  # fmt: skip
    mine, before = train_config | {"output_dir": str(run)}, weights(run)
    unfinished(run)
    foreign = run / "checkpoints" / "step-00000008"
    shutil.copytree(other / "checkpoints" / "step-00000006", foreign)
    with pytest.raises(UserError, match=r"step-00000008 was written by another run than the one it lies in"):
        train(mine)
    shutil.rmtree(foreign)
    # A copy under another name is the user's: neither read nor removed.
    copied = shutil.copytree(run / "checkpoints" / "step-00000004", run / "checkpoints" / "step-00000004-kept")
    # One of this run, but of another step than its name says, is broken.
    shutil.copytree(run / "checkpoints" / "step-00000004", run / "checkpoints" / "step-00000007")
    # Those of earlier versions have no mark.
    file = run / "checkpoints" / "step-00000006" / "manifest.json"
    write_json(file, {key: value for key, value in read_json(file).items() if key != "run"})
    train(mine)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(run).items())
    assert copied.is_dir() and (run / "checkpoints" / "broken-step-00000007").is_dir()


def test_a_run_of_an_earlier_version_goes_on_and_is_marked(train_config):
    run = train(train_config)
    before = weights(run)
    unfinished(run)
    for file in (run / "manifest.json", *run.glob("checkpoints/*/manifest.json")):
        write_json(file, {key: value for key, value in read_json(file).items() if key not in ("identity", "run")})
    train(train_config)
    assert len(RunFolder(run).identity) == 40
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(run).items())


def test_what_a_kill_left_of_the_final_weights_is_swept(train_config):
    run = train(train_config)
    unfinished(run)
    for folder in (".unet.01234567.tmp", "checkpoints/.step-00000008.01234567.tmp"):
        (run / folder).mkdir()
    for file in (".0123456789ab.tmp", ".mine.tmp"):
        (run / file).touch()
    train(train_config)
    assert [file.name for file in run.rglob("*.tmp")] == [".mine.tmp"]


def test_a_run_whose_lock_is_taken_away_stops_and_writes_no_more(train_config, tmp_path):
    config = changed(train_config, trainer={"max_steps": 10**6, "checkpoint_every": 10**6})
    config["output_dir"] = str(tmp_path / "mine")
    metrics, manifest = tmp_path / "mine" / "metrics.csv", tmp_path / "mine" / "manifest.json"
    seen = {}

    def take_away():
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            time.sleep(0.001)
        seen["manifest"] = manifest.read_bytes()
        (tmp_path / "mine" / ".lock").unlink()

    thread = threading.Thread(target=take_away, daemon=True)
    thread.start()
    with pytest.raises(RunError, match=r"\.lock was removed or replaced while this process worked"):
        train(config)
    assert manifest.read_bytes() == seen["manifest"] and not (tmp_path / "mine" / "checkpoints").exists()


def test_metrics_are_not_appended_to_what_lies_elsewhere(tmp_path):
    (tmp_path / "victim").write_text("mine\n")
    (tmp_path / "metrics.csv").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError) as caught:
        MetricsFile(tmp_path / "metrics.csv").append({"step": 0}, ["step"])
    assert "metrics.csv cannot be used" in str(disk_fault(caught.value))
    assert (tmp_path / "victim").read_text() == "mine\n"


def test_pairs_are_needed(train_config, tmp_path):
    picture = parquet.read_table(train_config["data"]["path"])["jpg_0"][0].as_py()
    parquet.write_table(pa.Table.from_pylist([{"caption": "a fox", "jpg_0": picture}] * 4), tmp_path / "liked.parquet")
    config = changed(train_config, data={"path": str(tmp_path / "liked.parquet")})
    with pytest.raises(UserError, match="objective=diffusion_kto or objective=sft"):
        train(config)
    assert RunFolder(train(changed(config, objective={"name": "sft"}))).manifest()["steps"] == 6
