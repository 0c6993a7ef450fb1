"""Every format, opened by diffusers' own loaders, draws the run's own pictures."""

import copy
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.evaluation.generation import load_pipeline
from mapolab.evaluation.models import find_models
from mapolab.evaluation.scores_table import Picture, write_scores
from mapolab.export.command import export
from mapolab.files import read_json, write_json
from mapolab.paths import resolve
from mapolab.training.run import train

LORA = {
    "rank": 4, "alpha": 8.0, "dropout": 0.0, "dora": False, "text_encoders": True, "text_encoder_learning_rate": None,
    "target_modules": ["to_q", "to_k", "to_out.0", "proj_in", "conv1", "ff.net.2"],
    "text_encoder_target_modules": ["q_proj", "v_proj", "out_proj", "fc1"],
}  # fmt: skip


@pytest.fixture(scope="module")
def full_run(module_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(module_config | {"output_dir": str(tmp_path_factory.mktemp("full"))})


@pytest.fixture(scope="module")
def lora_run(module_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = copy.deepcopy(module_config) | {"output_dir": str(tmp_path_factory.mktemp("lora"))}
    config["model"]["lora"] = LORA
    config["data"]["cache"] = False
    config["optimizer"]["lr"] = 1e-2
    return train(config)


@pytest.fixture
def pipeline_folder(module_config: dict[str, Any]) -> str:
    return module_config["model"]["pretrained"]


def draw(pipeline: StableDiffusionXLPipeline) -> torch.Tensor:
    """Two pictures, (2, H, W, 3), whole numbers from 0 to 255."""
    generator = torch.Generator().manual_seed(0)
    pictures = pipeline(
        ["a fox", "rain"], height=16, width=16, num_inference_steps=4, generator=generator, output_type="np"
    ).images
    return torch.from_numpy(pictures * 255).round()


def pipeline_of(run: Path) -> StableDiffusionXLPipeline:
    [model] = find_models([str(run)], run.parent)
    return load_pipeline(model)


def of_run(run: Path) -> torch.Tensor:
    return draw(pipeline_of(run))


def exported(run: Path, to: Path, *overrides: str) -> Path:
    return export(compose("export", [f"run={run}", f"to={to}", *overrides]))


def test_the_whole_pipeline(full_run, tmp_path):
    folder = exported(full_run, tmp_path / "out")
    assert torch.equal(draw(StableDiffusionXLPipeline.from_pretrained(folder)), of_run(full_run))
    readable = [file.stat().st_mode & 0o044 for file in folder.rglob("*.safetensors")]
    assert readable and all(readable)
    assert not any("_name_or_path" in file.read_text() for file in folder.glob("*/config.json"))  # of this machine


def test_the_unet_alone(full_run, pipeline_folder, tmp_path):
    folder = exported(full_run, tmp_path / "out", "formats=[unet]")
    assert not (folder / "vae").exists()
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    assert torch.equal(draw(StableDiffusionXLPipeline.from_pretrained(pipeline_folder, unet=unet)), of_run(full_run))


def test_the_single_file(full_run, pipeline_folder, tmp_path):
    folder = exported(full_run, tmp_path / "fox", "formats=[single_file]")
    pipeline = StableDiffusionXLPipeline.from_single_file(str(folder / "fox.safetensors"), config=pipeline_folder)
    expected = pipeline_of(full_run)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        loaded, wanted = getattr(pipeline, part).state_dict(), getattr(expected, part).state_dict()
        assert loaded.keys() == wanted.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in wanted.items()), part
    pipeline.scheduler = expected.scheduler
    assert torch.equal(draw(pipeline), draw(expected))


def test_a_single_file_trains_as_the_folder_does(full_run, module_config, tmp_path):
    folder = exported(full_run, tmp_path / "fox", "formats=[pipeline,single_file]")
    runs = []
    for pretrained in (folder, folder / "fox.safetensors"):
        config = copy.deepcopy(module_config) | {"output_dir": str(tmp_path / f"from_{pretrained.suffix[1:]}")}
        config["model"]["pretrained"] = str(pretrained)
        config["data"]["cache"] = False
        runs.append(load_file(train(config) / "unet" / "diffusion_pytorch_model.safetensors"))
    assert all(torch.equal(tensor, runs[1][name]) for name, tensor in runs[0].items())


@pytest.mark.parametrize("kind", ["lora", "kohya"])
def test_adapters(lora_run, pipeline_folder, tmp_path, kind):
    folder = exported(lora_run, tmp_path / "fox")
    pipeline = StableDiffusionXLPipeline.from_pretrained(pipeline_folder)
    before = draw(pipeline)
    if kind == "lora":
        pipeline.load_lora_weights(folder)
    else:
        pipeline.load_lora_weights(folder, weight_name="fox.kohya.safetensors")
        names = set(load_file(folder / "fox.kohya.safetensors"))
        assert "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in names
        assert any(name.startswith("lora_unet_output_blocks_0_1_transformer_blocks_0_attn2_to_q.") for name in names)
    assert torch.equal(draw(pipeline), of_run(lora_run))
    assert not torch.equal(before, of_run(lora_run))


def adapters_run(module_config: dict[str, Any], folder: Path, **lora: Any) -> Path:
    config = copy.deepcopy(module_config) | {"output_dir": str(folder)}
    config["model"]["lora"] = LORA | lora
    config["data"]["cache"] = False
    config["optimizer"]["lr"] = 1e-2
    config["trainer"]["max_steps"] = 2
    return train(config)


def with_lora(base: str, file: Path) -> StableDiffusionXLPipeline:
    """By diffusers' own loader."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    pipeline.load_lora_weights(file)
    return pipeline


@pytest.mark.parametrize("targets", [["q_proj"], ["v_proj", "fc1"], ["fc2"]])
def test_text_adapters_without_an_output_projection(module_config, pipeline_folder, tmp_path, targets):
    """By its name diffusers tells the layout of a text encoder's adapters."""
    run = adapters_run(module_config, tmp_path / "run", text_encoder_target_modules=targets)
    folder = exported(run, tmp_path / "fox")
    kohya = folder / "fox.kohya.safetensors"
    given = {"pretrained": pipeline_folder, "lora": str(kohya)}
    (ours,) = find_models([given], tmp_path)
    expected = of_run(run)
    for pipeline in (load_pipeline(ours), with_lora(pipeline_folder, kohya), with_lora(pipeline_folder, folder)):
        assert torch.equal(draw(pipeline), expected)
    without = {key: tensor for key, tensor in load_file(kohya).items() if "lora_te" not in key}
    save_file(without, tmp_path / "unet.safetensors")
    assert not torch.equal(draw(with_lora(pipeline_folder, tmp_path / "unet.safetensors")), expected)


def test_dora_is_exported_without_kohya(module_config, pipeline_folder, tmp_path, capsys):
    run = adapters_run(module_config, tmp_path / "run", dora=True)
    folder = exported(run, tmp_path / "fox")
    assert {file.name for file in folder.glob("*.safetensors")} == {"pytorch_lora_weights.safetensors"}
    told = "kohya is left out: it has no settled form for DoRA; formats=[single_file] holds the merged weights"
    assert told in capsys.readouterr().out
    assert torch.equal(draw(with_lora(pipeline_folder, folder)), of_run(run))
    with pytest.raises(UserError, match=r"formats=kohya cannot hold the LoRA of .*DoRA. Use formats=\[lora\]"):
        exported(run, tmp_path / "other", "formats=[kohya]")
    assert not (tmp_path / "other").exists()


def test_a_layer_that_kohya_has_no_name_for(module_config, tmp_path, capsys):
    targets = {"text_encoder_target_modules": ["q_proj", "text_projection"]}
    run = adapters_run(module_config, tmp_path / "run", **targets)
    folder = exported(run, tmp_path / "fox")
    assert "no name for the text encoders' text_projection" in capsys.readouterr().out
    assert not list(folder.glob("*.kohya.safetensors"))


def test_merged_adapters(lora_run, tmp_path):
    """Up to a rounding of the merged weights, which may tip a pixel by one level."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(exported(lora_run, tmp_path / "out", "formats=[pipeline]"))
    difference = (draw(pipeline) - of_run(lora_run)).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01


def test_half_precision(full_run, tmp_path):
    folder = exported(full_run, tmp_path / "fox", "dtype=float16", "formats=[pipeline,single_file]")
    for file in (folder / "unet" / "diffusion_pytorch_model.safetensors", folder / "fox.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_the_card_and_the_manifest(full_run, tmp_path):
    folder = exported(full_run, tmp_path / "out", "license=mit")
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "mit" and "mapo" in front["tags"]
    for part in ("mapo, beta 8.0", "6 |", "The run was not evaluated", "AdamW", "all of the UNet"):
        assert part in text
    assert yaml.safe_load((folder / "run_config.yaml").read_text())["seed"] == 3
    assert (folder / "run_manifest.json").exists()


def test_the_card_of_a_run_that_was_judged_by_category(full_run, tmp_path):
    """Beside its base, which was judged by fewer scorers."""
    run = shutil.copytree(full_run, tmp_path / "run")
    about = {"category": "animal", "cluster": "fox"}
    pictures = [Picture(index=index, prompt="a, b\r", seed=1, image=f"images/{index}.png", **about) for index in (0, 1)]
    evaluation, base = (folder / "evaluation" / "1a2b3c4d" for folder in (run, tmp_path / "base"))
    write_scores(evaluation, pictures, {"style": [0.25, 0.5], "a|b <c>": [1.0, 2.0]})
    write_scores(base, pictures, {"style": [0.0, 0.125]})
    settings = {"prompt_count": 2, "images_per_prompt": 1, "steps": 2, "guidance_scale": 5.0, "seed": 1, "scorers": []}
    write_json(evaluation / "settings.json", settings)
    write_json(evaluation / "links.json", {"base": "../base"})
    text = (exported(run, tmp_path / "out") / "README.md").read_text()
    assert "| scorer | this model | base |\n|---|---|---|\n| style | 0.375 | 0.062 |\n" in text
    assert "| a\\|b \\<c\\> | 1.500 |  |" in text


def test_nothing_of_the_environment_is_given_away(module_config, tmp_path, monkeypatch, reliability):
    """Trained with a token in the environment, exported without one; the folders of this machine stay here, too."""
    monkeypatch.setenv("DATA_TOKEN", "value-of-a-secret")
    monkeypatch.setenv("SOME_PLACE", "value-of-a-place")
    pairs = tmp_path / "value-of-a-secret" / "value-of-a-place" / "pairs.parquet"
    pairs.parent.mkdir(parents=True)
    shutil.copy(module_config["data"]["path"], pairs)
    monkeypatch.setattr(
        "sys.argv", ["mapolab", "train", f"data.path={pairs}", "logger.api_key=12345", "hf_0123456789abcdefg"]
    )
    config = copy.deepcopy(module_config) | {
        "output_dir": str(tmp_path / "run"),
        "optimizer": module_config["optimizer"],
    }
    config["data"] |= {"path": str(pairs), "cache": False}
    prompts = pairs.with_name("prompts.txt")
    prompts.write_text("a red cube")
    config["evaluation"] = {"prompts": str(prompts), "split": "https://me:password@host/x", "revision": None}
    typed = f"{tmp_path}/${{oc.env:DATA_TOKEN}}/${{oc.env:SOME_PLACE}}"
    config["from_environment"] = {"data.path": f"{typed}/pairs.parquet", "evaluation.prompts": f"{typed}/prompts.txt"}
    run = train(config)
    assert train(config) == run  # the same run, as it is saved
    monkeypatch.delenv("DATA_TOKEN")
    monkeypatch.delenv("SOME_PLACE")
    folder = exported(run, tmp_path / "out")

    def holding(where: Path, text: str) -> list[str]:
        return [file.name for file in where.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]

    for text in ("value-of-a-secret", "12345", "hf_0123456789"):
        assert not holding(run, text) and not holding(folder, text), text
    for text in ("value-of-a-place", "password", str(tmp_path), str(tmp_path.parent)):
        assert not holding(folder, text), text
    assert "${oc.env:SOME_PLACE}" in (folder / "run_config.yaml").read_text()
    reliability(
        "A run trained with a token and a place from ${oc.env:...}, exported",
        "what is uploaded has the texts that were typed, and no folder of this machine",
        "no value in any file of the export; of the secret none in the run's folder either",
    )


def test_the_card_of_a_strangers_run_is_plain_text(full_run, tmp_path):
    run = shutil.copytree(full_run, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key in ("optimizer", "schedule"):
        config.pop(key)
    config |= {"name": "x</h1><script>", "data": config["data"] | {"split": "a|b\n# [c](javascript:d)"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(
        run / "manifest.json", read_json(run / "manifest.json") | {"label": "---\nlicense: mit", "notes": ["<img>"]}
    )
    text = (exported(run, tmp_path / "out") / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "other"
    assert "<script" not in text.replace("\\<", "") and "<img" not in text.replace("\\<", "")
    assert "a\\|b # [c\\](javascript:d)" in text and "\n# [c" not in text


def test_what_cannot_be_exported(full_run, tmp_path):
    with pytest.raises(UserError, match="needs a run that trained a LoRA"):
        exported(full_run, tmp_path / "out", "formats=[kohya]")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(UserError, match="is not empty"):
        exported(full_run, tmp_path / "taken")
    assert not (tmp_path / "out").exists()


def test_an_export_is_found_finished_mended_or_told_from_another(full_run, tmp_path, capsys):
    to = tmp_path / "fox"
    for leftover in (".fox.01234567.tmp", ".fox.v2.01234567.tmp"):  # the second one is of another export
        (tmp_path / leftover).mkdir()
    exported(full_run, to)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".fox.v2.01234567.tmp", "fox"]
    unet = to / "unet" / "diffusion_pytorch_model.safetensors"
    before, written = unet.read_bytes(), unet.stat().st_mtime_ns
    exported(full_run, to)
    assert f"The export in {to} is finished." in capsys.readouterr().out
    assert unet.stat().st_mtime_ns == written
    unet.unlink()
    (to / "mine.txt").touch()
    with pytest.raises(UserError, match=r"lies mine\.txt, which no export wrote"):
        exported(full_run, to)
    (to / "mine.txt").unlink()
    exported(full_run, to)
    assert unet.read_bytes() == before
    with pytest.raises(UserError, match=r"holds another export \(dtype: float32 -> float16\)"):
        exported(full_run, to, "dtype=float16")
    for name in ("pytorch_lora_weights", "LEARNED_EMBEDS"):
        with pytest.raises(UserError, match="has another meaning in an export"):
            exported(full_run, tmp_path / "other", f"name={name}")


def test_weights_that_lie_elsewhere_are_not_exported(full_run, tmp_path):
    run = shutil.copytree(full_run, tmp_path / "run")
    shutil.move(run / "unet", tmp_path / "private")
    (run / "unet").symlink_to("../private")
    with pytest.raises(UserError, match=r"unet is a symbolic link out of .*run, to .*private"):
        exported(run, tmp_path / "out")
    # As the hub's cache keeps it: each file a link to a folder of its own.
    snapshot = tmp_path / "hub" / "snapshots" / "1a2b"
    shutil.copytree(full_run, snapshot)
    (tmp_path / "hub" / "blobs").mkdir()
    file = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.move(file, tmp_path / "hub" / "blobs" / "5f6e")
    file.symlink_to("../../../blobs/5f6e")
    assert (exported(snapshot, tmp_path / "out", "formats=[unet]") / "unet").is_dir()


def test_the_tiny_twin_has_no_single_file(full_run, tmp_path):
    """diffusers tells the text encoders in it apart by their widths."""
    run = tmp_path / "run"
    shutil.copytree(full_run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["pretrained"] = "builtin:tiny_twin"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = {key: value for key, value in read_json(run / "manifest.json").items() if key != "model_files"}
    write_json(run / "manifest.json", manifest)
    shutil.rmtree(run / "unet")
    shutil.copytree(resolve("builtin:tiny_twin") / "unet", run / "unet")
    with pytest.raises(UserError, match="are 64 wide, and diffusers tells the two in a single file apart"):
        exported(run, tmp_path / "out", "formats=[single_file]")
    assert not (tmp_path / "out").exists()
    folder = exported(run, tmp_path / "out", "dtype=float16")
    call = 'StableDiffusionXLPipeline.from_pretrained("<this folder>", dtype=torch.float16)'
    assert call in (folder / "README.md").read_text()
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float16)
    assert {getattr(pipeline, part).dtype for part in ("unet", "vae", "text_encoder")} == {torch.float16}


def test_weights_that_overflow_are_not_exported(full_run, tmp_path):
    run = shutil.copytree(full_run, tmp_path / "run")
    file = run / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1e7 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"of the unet overflows in torch\.float16"):
        exported(run, tmp_path / "out", "dtype=float16")


def test_the_upload(full_run, tmp_path, monkeypatch):
    """Up to the calls of the hub's client: there is no hub here."""
    calls = []
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, *a, **k: calls.append((a, k)))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **k: calls.append(k))
    folder = exported(full_run, tmp_path / "out", "push=me/fox")
    assert calls[0] == (("me/fox",), {"private": True, "exist_ok": True})
    assert calls[1]["repo_id"] == "me/fox" and calls[1]["folder_path"] == folder
    (folder / "private.txt").touch()
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    sent = [*filter_repo_objects(names, allow_patterns=calls[1]["allow_patterns"])]
    assert sorted({*names} - {*sent}) == ["export.json", "private.txt"]
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="The export itself is whole"):
        exported(full_run, tmp_path / "again", "push=me/fox")
