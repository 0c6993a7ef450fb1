"""Models that look like SDXL and are not, or do not fit together: each named, before anything heavy is loaded."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import RevisionNotFoundError
from safetensors.torch import load_file, save_file

from mapolab.errors import UserError
from mapolab.models import hub
from mapolab.models.encoder import Encoder
from mapolab.models.sdxl import SDXL


@pytest.fixture
def folder(tiny_pipeline_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_pipeline_folder, tmp_path / "model")


def edited(folder: Path, file: str, **changes) -> None:
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(values | changes))


def fault(**fields) -> str:
    with pytest.raises(UserError) as raised:
        SDXL(**fields).check()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_another_pipeline(folder):
    edited(folder, "model_index.json", _class_name="StableDiffusionPipeline")
    assert "is a StableDiffusionPipeline, but mapolab is for SDXL" in fault(pretrained=str(folder))


def test_the_refiner(folder):
    edited(folder, "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline", text_encoder=[None, None])
    assert "is the SDXL refiner" in fault(pretrained=str(folder))


@pytest.mark.parametrize(
    "parts",
    [
        {"unet": ["strangers_module", "UNet2DConditionModel"]},
        {"vae": ["strangers_module", "AutoencoderKL"]},
        {"tokenizer": ["strangers_module", "CLIPTokenizer"]},
        {"scheduler": ["strangers_module", "EulerDiscreteScheduler"]},
        {"scheduler": ["diffusers", ["EulerDiscreteScheduler"]]},
        {"vae": "strangers_module"},
        {"controlnet": ["diffusers", "ControlNetModel"]},
        {"image_encoder": ["strangers_module", "CLIPVisionModelWithProjection"]},
        {"_class_name": ["strangers_module", "StableDiffusionXLPipeline"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("lent", [False, True])
def test_nothing_is_imported_by_a_name_in_model_index(folder, tmp_path, monkeypatch, reliability, parts, lent):
    """Neither of a pipeline nor of one that lends its configs to a single file."""
    (tmp_path / "strangers_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    edited(folder, "model_index.json", **parts)
    prefixes = "model.diffusion_model.x", "first_stage_model.x", "conditioner.embedders.0.transformer.x"
    save_file(
        {name: torch.ones(1) for name in (*prefixes, "conditioner.embedders.1.model.x")}, tmp_path / "a.safetensors"
    )
    given = {"pretrained": str(tmp_path / "a.safetensors"), "single_file_config": str(folder)} if lent else {}
    fault(**given or {"pretrained": str(folder)})
    assert "strangers_module" not in sys.modules
    if lent and "unet" in parts:
        reliability(
            "A model_index.json that names a module (a pipeline's, or of model.single_file_config)",
            "refused by name, nothing is imported",
            "refused by name; the module was not imported",
        )


def test_parts_for_image_prompts_are_left_alone(folder):
    edited(
        folder, "model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"], extra=[None, None]
    )
    SDXL(str(folder)).check()


def test_text_encoders_of_another_model(folder):
    edited(folder, "text_encoder/config.json", hidden_size=16)
    assert "attends to prompt embeddings of width 24, its text encoders give 16 + 16" in fault(pretrained=str(folder))


def test_a_pooled_prompt_of_another_width(folder):
    edited(folder, "text_encoder_2/config.json", projection_dim=32)
    assert "wants 40 numbers" in fault(pretrained=str(folder))


def test_an_inpainting_unet(folder):
    edited(folder, "unet/config.json", in_channels=9)
    assert "9 input channels" in fault(pretrained=str(folder))


def test_a_distilled_unet_and_one_with_a_variance(folder):
    edited(folder, "unet/config.json", time_cond_proj_dim=256)
    assert "is told the guidance scale (time_cond_proj_dim)" in fault(pretrained=str(folder))
    edited(folder, "unet/config.json", time_cond_proj_dim=None, out_channels=8)
    assert "8 output channels: it predicts a variance" in fault(pretrained=str(folder))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("cond_stage_model.transformer.text_model.x", "is a Stable Diffusion 1 or 2 checkpoint"),
        ("conditioner.embedders.0.model.x", "is the SDXL refiner"),
        ("lora_unet_x.lora_up.weight", "has no tensors under model.diffusion_model."),
    ],
)
def test_single_files_of_other_models(tiny_pipeline_folder, tmp_path, tensor, message):
    file = tmp_path / "model.safetensors"
    unet = {} if tensor.startswith("lora") else {"model.diffusion_model.x": torch.ones(1)}
    save_file({tensor: torch.ones(1)} | unet, file)
    assert message in fault(pretrained=str(file), single_file_config=str(tiny_pipeline_folder))


def test_a_file_that_is_no_safetensors(tiny_pipeline_folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"<html>" * 100)
    found = fault(pretrained=str(tmp_path / "model.safetensors"), single_file_config=str(tiny_pipeline_folder))
    assert "is no sound safetensors file" in found


def test_a_wrong_revision(monkeypatch):
    """There is no hub here, so its client's own error is raised in its place."""

    def refuse(*_, **__):
        raise RevisionNotFoundError("404", response=SimpleNamespace(headers={}, status_code=404, request=None))

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    assert "has no revision v9 on the hub" in fault(pretrained="owner/model", revision="v9")


def test_a_contradicting_prediction_type(folder):
    assert "but the model's scheduler says epsilon" in fault(pretrained=str(folder), prediction_type="v_prediction")
    edited(folder, "scheduler/scheduler_config.json", prediction_type="v_prediction")
    assert "but the model's scheduler says v_prediction" in fault(pretrained=str(folder), prediction_type="epsilon")
    SDXL(str(folder), prediction_type="v_prediction").check()
    edited(folder, "scheduler/scheduler_config.json", prediction_type="sample")
    assert "predict the noise" in fault(pretrained=str(folder))


def test_a_zero_terminal_snr_is_for_velocity_only(folder):
    assert "needs a model that predicts the velocity" in fault(pretrained=str(folder), zero_terminal_snr=True)
    edited(folder, "scheduler/scheduler_config.json", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    sdxl = SDXL(str(folder))
    assert sdxl.load_scheduler().alphas_cumprod[-1] == 0
    assert sdxl.load_sampler().config.timestep_spacing == "trailing"
    assert SDXL(str(folder), zero_terminal_snr=False).load_scheduler().alphas_cumprod[-1] > 0


def test_a_vae_that_overflows_in_half_precision(folder):
    """Weights so large that activations leave float16's range, as SDXL's own do at places."""
    vae = SDXL(str(folder)).load_vae()
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(1e5)
    vae.save_pretrained(folder / "vae")
    Encoder.load(SDXL(str(folder), encoder_dtype="float16", vae_dtype="auto"))  # in float32: its config says nothing
    with pytest.raises(UserError, match="latents are not finite in float16"):
        Encoder.load(SDXL(str(folder), vae_dtype="float16"))


def test_a_vae_that_is_safe_in_half_precision_is_used_so(folder):
    edited(folder, "vae/config.json", force_upcast=False)
    assert SDXL(str(folder), encoder_dtype="float16", vae_dtype="auto").load_vae().dtype == torch.float16
    assert SDXL(str(folder), encoder_dtype="float32", vae_dtype="auto").load_vae().dtype == torch.float32
    identities = {
        SDXL(str(folder), encoder_dtype=name, vae_dtype="auto").encoder_identity for name in ("float32", "float16")
    }
    assert len(identities) == 2


def test_a_single_file_says_how_it_predicts(tiny_pipeline_folder, tmp_path):
    """By the empty tensors that UIs look for; without them the setting decides."""
    prefixes = "model.diffusion_model.x", "first_stage_model.x", "conditioner.embedders.0.transformer.x"
    tensors = {name: torch.ones(1) for name in (*prefixes, "conditioner.embedders.1.model.x")}
    file, configs = tmp_path / "model.safetensors", str(tiny_pipeline_folder)
    save_file(tensors, file)
    kinds = [SDXL(str(file), single_file_config=configs, prediction_type=kind) for kind in ("auto", "v_prediction")]
    assert [kind.load_scheduler().config.prediction_type for kind in kinds] == ["epsilon", "v_prediction"]
    save_file(tensors | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, file)
    scheduler = SDXL(str(file), single_file_config=configs).load_scheduler()
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.alphas_cumprod[-1] == 0
    assert "says v_prediction" in fault(pretrained=str(file), single_file_config=configs, prediction_type="epsilon")


def test_weights_that_do_not_fit_their_config(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}  # not a view of the file
    removed = weights.pop("conv_out.bias")
    save_file(weights, file)
    with pytest.raises(UserError, match=r"lack conv_out\.bias"):
        SDXL(str(folder)).load_unet()
    save_file(weights | {"conv_out.bias": torch.ones(7)}, file)
    with pytest.raises(UserError, match=r"conv_out\.bias has the shape \(7,\)"):
        SDXL(str(folder)).load_unet()
    save_file(weights | {"conv_out.bias": removed, "other": torch.ones(3)}, file)
    with pytest.raises(UserError, match="other has no place in the model"):
        SDXL(str(folder)).load_unet()
