import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel

from mapolab.errors import UserError
from mapolab.files import read_json, write_json
from mapolab.models.sdxl import SDXL
from mapolab.models.trained import unet_config
from mapolab.training.checkpoint import FORMAT, FolderCheckpointIO
from mapolab.training.folders import FolderWriter, fault
from mapolab.training.resume import CheckpointFolder
from mapolab.training.run import train


@pytest.fixture
def unet(tiny_pipeline_folder):
    return SDXL(str(tiny_pipeline_folder)).load_unet()


@pytest.fixture
def checkpoint(unet):
    """What Lightning hands over, cut down to what matters here."""
    return {
        "global_step": 4,
        "state_dict": {f"unet.{name}": tensor for name, tensor in unet.state_dict().items()},
        "weights": {"unet_config": unet_config(unet)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"betas": (0.9, 0.999)}]}],
    }


@pytest.fixture
def folder(tmp_path, checkpoint):
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    for step in (2, 4, 6):
        FolderCheckpointIO().save_checkpoint(checkpoint | {"global_step": step}, checkpoints.at(step))
    return checkpoints


def test_a_checkpoint_comes_back(folder, checkpoint):
    loaded = FolderCheckpointIO().load_checkpoint(folder.at(4))
    assert loaded["optimizer_states"] == checkpoint["optimizer_states"]
    assert loaded["state_dict"].keys() == checkpoint["state_dict"].keys()
    assert all(torch.equal(loaded["state_dict"][name], tensor) for name, tensor in checkpoint["state_dict"].items())


def test_its_unet_opens_in_diffusers(folder, unet):
    opened = UNet2DConditionModel.from_pretrained(folder.at(4) / "unet")
    assert all(torch.equal(opened.state_dict()[name], tensor) for name, tensor in unet.state_dict().items())
    assert opened.config.addition_embed_type == "text_time"


def test_the_newest_and_the_best_are_kept(folder, checkpoint):
    folder.trim(2, best=2)
    assert folder.all() == [folder.at(step) for step in (2, 4, 6)]
    folder.trim(1, best=2)
    assert folder.all() == [folder.at(2), folder.at(6)]
    folder.trim(1)
    assert folder.all() == [folder.at(6)]


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "training_state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "overwritten", "removed"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(folder, file, damage, capfd):
    victim = folder.at(6) / file
    content = victim.read_bytes()
    middle = len(content) // 2
    if damage == "removed":
        victim.unlink()
    elif damage == "truncated":
        victim.write_bytes(content[:middle])
    else:
        victim.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    assert folder.newest_sound() == folder.at(4)
    assert "step-00000006 is broken" in capfd.readouterr().err
    assert [path.name for path in folder.all()] == ["step-00000002", "step-00000004"]
    assert (folder.path / "broken-step-00000006").is_dir()


def test_no_checkpoint_at_all(tmp_path):
    assert CheckpointFolder(tmp_path / "none").newest_sound() is None


def test_a_folder_that_fails_to_be_written_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), FolderWriter(tmp_path / "step") as half:
        (half / "file").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_kill_are_swept_and_old_checkpoints_trimmed(folder):
    shutil.copytree(folder.at(6), folder.path / ".step-00000008.0a1b2c3d.tmp")
    assert folder.newest_sound() == folder.at(6)
    folder.sweep()
    folder.trim(keep=2)
    assert sorted(path.name for path in folder.path.iterdir()) == ["step-00000004", "step-00000006"]


def test_formats_are_read_up_to_our_own(train_config):
    """One without a number is format 1; one from the future is refused, not set aside as broken."""
    run = train(train_config)
    checkpoint = run / "checkpoints" / "step-00000006"
    manifest = read_json(checkpoint / "manifest.json")
    write_json(checkpoint / "manifest.json", {key: value for key, value in manifest.items() if key != "format"})
    assert FolderCheckpointIO().load_checkpoint(checkpoint)["global_step"] == 6
    write_json(checkpoint / "manifest.json", manifest | {"format": FORMAT + 1})
    shutil.rmtree(run / "unet")
    write_json(run / "manifest.json", read_json(run / "manifest.json") | {"status": "running"})
    with pytest.raises(UserError, match=f"has format {FORMAT + 1}; this version of mapolab reads up to {FORMAT}"):
        train(train_config)
    assert checkpoint.is_dir()


def test_what_is_written_in_the_background_is_what_was_there_when_asked(train_config, tmp_path):
    io = FolderCheckpointIO(in_background=True)
    path = train(train_config) / "checkpoints" / "step-00000006"
    content = io.load_checkpoint(path)
    name, before = next((name, tensor.clone()) for name, tensor in content["state_dict"].items())
    io.save_checkpoint(content, tmp_path / "copy")
    content["state_dict"][name].zero_()  # training goes on
    io.finish()
    assert fault(tmp_path / "copy") is None
    assert torch.equal(io.load_checkpoint(tmp_path / "copy")["state_dict"][name], before)
    (tmp_path / "file").touch()
    io.save_checkpoint(content, tmp_path / "file" / "copy")  # no folder can be there
    with pytest.raises(OSError):
        io.finish()
