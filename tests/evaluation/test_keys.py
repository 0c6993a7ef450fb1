"""The key of a picture is a hash over all that is read to draw it: every byte and setting of it, and nothing else."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mapolab import hashes
from mapolab.errors import UserError
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.generation import load_pipeline
from mapolab.evaluation.models import base_of, find_models
from mapolab.files import read_json
from mapolab.models.original_layout import slots, to_original
from mapolab.models.parts import MODELS
from mapolab.models.sdxl import SDXL

DRAW = {"prompts": "builtin:emoji/prompts/test.csv", "limit": 2, "steps": 2, "height": 16, "width": 16, "scorers": []}


@pytest.fixture
def folder(tiny_pipeline_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_pipeline_folder, tmp_path / "model")


def key(**named: Any) -> str:
    (model,) = find_models(named, Path("outputs"))
    return model.fingerprint


def change(file: Path) -> None:
    """One byte of what the file says: of a JSON file a space, of weights a bit of the last number."""
    data = bytearray(file.read_bytes())
    if file.suffix == ".safetensors":
        data[-2] ^= 1
    else:
        data += b" "
    file.write_bytes(bytes(data))


def read_by(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.*") if file.is_file())


def test_a_key_is_of_every_file_that_is_read(folder):
    before = key(pretrained=str(folder))
    for file in read_by(folder):
        if file.name in ("model_index.json", "scheduler_config.json"):
            continue  # of which the settings count
        data = file.read_bytes()
        change(file)
        assert key(pretrained=str(folder)) != before, file
        file.write_bytes(data)
    assert key(pretrained=str(folder)) == before


def test_only_these_files_are_read(folder, tiny_pipeline_folder, tmp_path):
    """A copy of only the files that the key is of loads as the whole folder with much beside them does."""
    sdxl, alone = SDXL(str(folder)), tmp_path / "alone"
    named = {"unet": "unet", "vae": "vae"} | {part: part for part in ("text_encoder", "text_encoder_2")}
    for part in (*named, "tokenizer", "tokenizer_2"):
        (alone / part).mkdir(parents=True)
        for entry in sdxl.identity_of(part):
            name = entry.partition(":")[0]
            shutil.copy(folder / part / name, alone / part / name)
    shutil.copytree(folder / "scheduler", alone / "scheduler")
    shutil.copy(folder / "model_index.json", alone)
    before = key(pretrained=str(folder))
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        zeros = {name: torch.zeros_like(one) for name, one in load_file(folder / part / f"{stem}.safetensors").items()}
        save_file(zeros, folder / part / f"{stem}.fp16.safetensors")  # another variant
        (folder / part / "pytorch_model.bin").write_bytes(b"")
        (folder / part / "notes.txt").write_text("")
    (folder / "tokenizer" / "vocab.json").write_text("{}")  # tokenizer.json comes first
    (folder / "tokenizer" / "merges.txt").write_text("")
    (folder / "README.md").write_text("")
    assert key(pretrained=str(folder)) == key(pretrained=str(alone)) == before
    states = []
    for name in (folder, alone):
        (model,) = find_models(str(name), tmp_path)
        pipeline = load_pipeline(model)
        states.append([tensor for part in MODELS for tensor in getattr(pipeline, part).state_dict().values()])
        assert pipeline.tokenizer("a fox").input_ids == pipeline.tokenizer_2("a fox").input_ids
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


def test_a_key_is_of_every_setting_that_is_read(folder):
    keys = [key(pretrained=str(folder))]
    for file, changes in (
        ("model_index.json", {"force_zeros_for_empty_prompt": False}),
        ("scheduler/scheduler_config.json", {"beta_end": 0.013}),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}),
        ("vae/config.json", {"scaling_factor": 0.25}),
    ):
        (folder / file).write_text(json.dumps(read_json(folder / file) | changes))
        keys.append(key(pretrained=str(folder)))
    assert len(set(keys)) == len(keys)
    about = read_json(folder / "model_index.json") | {"_diffusers_version": "0"}
    (folder / "model_index.json").write_text(json.dumps(about))
    assert key(pretrained=str(folder)) == keys[-1]


def test_shards_are_part_of_a_key_if_the_index_names_them(folder):
    file = folder / "text_encoder" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    where = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    file.rename(file.with_name("model-00001-of-00001.safetensors"))
    file.with_name("model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    before = key(pretrained=str(folder))
    save_file(tensors, file.with_name("model-00002-of-00002.safetensors"))
    assert key(pretrained=str(folder)) == before
    change(file.with_name("model-00001-of-00001.safetensors"))
    assert key(pretrained=str(folder)) != before


def single_file(folder: Path, file: Path, changed: str = "") -> str:
    """The folder's model as one file; the part `changed` another one."""
    tensors = {}
    for part in MODELS:
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        weights = load_file(folder / part / f"{stem}.safetensors")
        if part == changed:
            weights = {name: tensor + 0.1 for name, tensor in weights.items()}
        tensors |= to_original(weights, slots(part, read_json(folder / part / "config.json"), weights))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return str(file)


def test_a_key_of_a_single_file_is_of_each_part_and_of_what_is_lent(folder, tmp_path):
    files = [single_file(folder, tmp_path / f"{part}.safetensors", part) for part in ("", *MODELS)]
    keys = {key(pretrained=file, single_file_config=str(folder)) for file in files}
    assert len(keys) == 5
    encoders = [SDXL(file, single_file_config=str(folder)).encoder_identity for file in files]
    assert encoders[0] == encoders[1] and len(set(encoders)) == 4  # caches are shared where only the UNet differs
    lent = [*(folder / part / "config.json" for part in MODELS), *(folder / "tokenizer").iterdir()]
    for file in lent:
        change(file)
        keys.add(key(pretrained=files[0], single_file_config=str(folder)))
    assert len(keys) == 5 + len(lent)
    change(folder / "unet" / "diffusion_pytorch_model.safetensors")  # not lent
    assert key(pretrained=files[0], single_file_config=str(folder)) in keys


def test_two_single_files_draw_and_train_as_two_models(folder, train_config, tmp_path):
    files = [single_file(folder, tmp_path / f"{name}.safetensors", part) for name, part in (("a", ""), ("b", "unet"))]
    models = [{"pretrained": file, "single_file_config": str(folder)} for file in files]
    one, other = evaluate({"models": models, "output_root": str(tmp_path / "outputs"), **DRAW})
    pictures = [[file.read_bytes() for file in sorted((done / "images").iterdir())] for done in (one, other)]
    assert pictures[0] != pictures[1]
    runs = [{"model": train_config["model"] | model, "diffusion": train_config["diffusion"]} for model in models]
    assert len({base_of(run, tmp_path).folder for run in runs}) == 2


def test_a_folder_like_the_hubs_cache_is_no_commit(folder, tmp_path):
    """Where its parent is called `snapshots`: what is changed there is another model."""
    shutil.copytree(folder, tmp_path / "mine" / "snapshots" / "newest")
    copy = tmp_path / "mine" / "snapshots" / "newest"
    assert key(pretrained=str(copy)) == key(pretrained=str(folder))
    change(copy / "unet" / "diffusion_pytorch_model.safetensors")
    assert key(pretrained=str(copy)) != key(pretrained=str(folder))


def test_a_vae_a_unet_and_a_lora_are_part_of_the_key(folder, tmp_path):
    base = {"pretrained": str(folder)}
    shutil.copytree(folder / "vae", tmp_path / "vae")
    shutil.copytree(folder / "unet", tmp_path / "unet")
    lora = tmp_path / "lora"
    lora.mkdir()
    save_file({"unet.x.lora_A.weight": torch.ones(2)}, lora / "pytorch_lora_weights.safetensors")
    (lora / "adapter_config.json").write_text("{}")
    # Equal bytes, wherever they lie.
    assert key(**base) == key(**base, vae=str(tmp_path / "vae")) == key(**base, unet=str(tmp_path / "unet"))
    for named, files in (
        ({"vae": str(tmp_path / "vae")}, (tmp_path / "vae").iterdir()),
        ({"unet": str(tmp_path / "unet")}, (tmp_path / "unet").iterdir()),
        ({"lora": str(lora)}, lora.iterdir()),
    ):
        for file in list(files):
            before = key(**base, **named)
            change(file)
            assert key(**base, **named) != before, file
    before = key(**base, unet=str(tmp_path / "unet"))
    change(folder / "unet" / "diffusion_pytorch_model.safetensors")  # another one takes its place
    assert key(**base, unet=str(tmp_path / "unet")) == before


def test_a_variant_beside_a_unet(folder, tmp_path):
    """Is of both, unless unet_variant says otherwise."""
    for part in MODELS:
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        shutil.copy(folder / part / f"{stem}.safetensors", folder / part / f"{stem}.fp16.safetensors")
    unet, plain = tmp_path / "unet", folder / "unet" / "diffusion_pytorch_model.safetensors"
    unet.mkdir()
    shutil.copy(folder / "unet" / "config.json", unet)
    half = {name: tensor + 1 for name, tensor in load_file(plain).items()}
    save_file(half, unet / "diffusion_pytorch_model.fp16.safetensors")
    named = {"pretrained": str(folder), "unet": str(unet)}
    (model,) = find_models(named | {"variant": "fp16"}, tmp_path)
    model.check()
    assert torch.equal(load_pipeline(model).unet.state_dict()["conv_out.bias"], half["conv_out.bias"])
    with pytest.raises(UserError, match=r"there is diffusion_pytorch_model\.fp16"):
        find_models(named, tmp_path)
    shutil.copy(plain, unet)
    assert key(**named, variant="fp16") == model.fingerprint
    (plainer,) = find_models(named | {"variant": "fp16", "unet_variant": None}, tmp_path)
    assert torch.equal(load_pipeline(plainer).unet.state_dict()["conv_out.bias"], load_file(plain)["conv_out.bias"])
    with pytest.raises(UserError, match="has unet_variant, but no unet"):
        find_models({"pretrained": str(folder), "unet_variant": "fp16"}, tmp_path)


def test_a_hash_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "CACHE", tmp_path / "kept")
    monkeypatch.setattr(hashes, "WORTH_KEEPING", 1)
    file, read = tmp_path / "file", []
    file.write_text("one")

    def content(path: Path) -> str:
        read.append(path)
        return path.read_text()

    def remembered() -> str:
        return hashes.remembered(file, "content", content)

    assert [remembered(), remembered(), len(read)] == ["one", "one", 1]
    stat = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size and time of writing
    assert [remembered(), len(read)] == ["two", 2]
    assert hashes.remembered(file, "length", lambda path: len(path.read_text())) == 3
    next((tmp_path / "kept").iterdir()).write_text("{")
    assert remembered() == "two"
