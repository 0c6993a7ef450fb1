import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from mapolab.data.images import load
from mapolab.diffusion.errors import denoising_task
from mapolab.errors import UserError
from mapolab.models.encoder import Encoder
from mapolab.models.prompts import encode_prompts
from mapolab.models.reference import FrozenCopy
from mapolab.models.sdxl import SDXL


@pytest.fixture(scope="module")
def sdxl(tiny_pipeline_folder):
    return SDXL(str(tiny_pipeline_folder))


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline_folder):
    return StableDiffusionXLPipeline.from_pretrained(tiny_pipeline_folder)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_prompt_embeddings_are_the_pipelines(tiny_pipeline_folder, tmp_path, layout, dtype):
    """To the bit, from files in either layout of the first encoder: transformers before 5.6 put all under `text_model`.

    (The second encoder's class still does, so both kinds of modules are read.)
    """
    folder = shutil.copytree(tiny_pipeline_folder, tmp_path / "model")
    if layout == "nested":
        file = folder / "text_encoder" / "model.safetensors"
        nested = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(file).items()}
        save_file(nested, file, {"format": "pt"})
    prompts = ["a fox", "", "a much longer prompt than the tokenizer holds"]
    embeds, pooled = encode_prompts(SDXL(str(folder), encoder_dtype=dtype).load_text_encoders(), prompts)
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_pipeline_folder, dtype=getattr(torch, dtype))
    expected, _, expected_pooled, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
    assert embeds.dtype == getattr(torch, dtype)
    assert torch.equal(embeds, expected)
    assert torch.equal(pooled, expected_pooled)


@pytest.mark.parametrize("size", [(20, 16), (16, 24), (40, 40)])
@pytest.mark.parametrize("flip", [False, True])
def test_micro_conditioning_is_the_pipelines(pipeline, make_image, size, flip):
    """(width, height) = size, resized by the short side to 16 px and cropped in the centre."""
    width, height = size
    scale = 16 / min(size)
    crop = round((height * scale - 16) / 2), round((width * scale - 16) / 2)
    expected = pipeline._get_add_time_ids(
        (height, width), crop, (16, 16), torch.float32, text_encoder_projection_dim=16
    )
    assert torch.equal(load(make_image(0, size), (16, 16), flip).time_ids, expected[0])


@pytest.mark.parametrize(
    "statistics", [{}, {"latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0]}]
)
def test_latents_are_what_the_pipeline_decodes(sdxl, pipeline, statistics):
    """Encoding must undo the scaling that the pipeline applies before its VAE decodes."""
    encoder = Encoder.load(sdxl)
    for vae in (encoder.vae, pipeline.vae):
        vae.register_to_config(**{"latents_mean": None, "latents_std": None} | statistics)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents, _ = encoder.encode_images(images)
    embeds = {"prompt_embeds": torch.zeros(2, 8, 24), "pooled_prompt_embeds": torch.zeros(2, 16)}
    decoded = pipeline.vae.decode(encoder.vae.encode(images).latent_dist.mean).sample
    seen = decode_as_pipeline(pipeline, latents, embeds)
    torch.testing.assert_close(seen, (decoded / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


def decode_as_pipeline(pipeline, latents, embeds):
    """The pictures that the pipeline makes of final latents, through its own code."""

    def replace_latents(pipe, step, timestep, values):
        return {"latents": latents}

    return pipeline(
        **embeds, height=16, width=16, num_inference_steps=1, guidance_scale=1.0, output_type="pt",
        callback_on_step_end=replace_latents,
    ).images  # fmt: skip


def test_half_precision_files_train_in_float32(sdxl, pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "full")
    half = StableDiffusionXLPipeline.from_pretrained(tmp_path / "full", dtype=torch.float16)
    half.save_pretrained(tmp_path / "half", variant="fp16")
    loaded = SDXL(str(tmp_path / "half"), variant="fp16").load_unet()
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_separate_vae_is_used_and_changes_the_identity(sdxl, tiny_pipeline_folder, tmp_path):
    vae = sdxl.load_vae()
    vae.register_to_config(scaling_factor=0.25)
    vae.save_pretrained(tmp_path)
    other = SDXL(str(tiny_pipeline_folder), vae=str(tmp_path))
    assert other.load_vae().config.scaling_factor == 0.25
    assert other.encoder_identity != sdxl.encoder_identity


def test_the_identity_ignores_where_the_model_lies(sdxl, tiny_pipeline_folder, tmp_path):
    copy = shutil.copytree(tiny_pipeline_folder, tmp_path / "copy")
    assert SDXL(str(copy)).encoder_identity == sdxl.encoder_identity
    shutil.rmtree(copy / "unet")  # not an encoder
    assert SDXL(str(copy)).encoder_identity == sdxl.encoder_identity


def test_what_cannot_be_loaded_is_explained(tiny_pipeline_folder, tmp_path):
    copy = shutil.copytree(tiny_pipeline_folder, tmp_path / "copy")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"The unet of .* cannot be loaded"):
        SDXL(str(copy)).load_unet()
    shutil.rmtree(copy / "vae")
    with pytest.raises(UserError, match="has no folder vae"):
        SDXL(str(copy)).load_vae()
    (copy / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UserError, match="is a StableDiffusionPipeline"):
        SDXL(str(copy)).check()
    with pytest.raises(UserError, match="neither a folder nor a name"):
        SDXL(str(tmp_path / "missing")).check()


def test_off_line_without_the_model(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"not in the local cache.*give its folder"):
        SDXL("nobody/never-made-this-model").check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_stays_as_it_was(sdxl, dtype):
    unet = sdxl.load_unet()
    reference = FrozenCopy(unet, dtype)
    make = torch.Generator().manual_seed(0)
    batch = {
        "positions": [0, 1],
        "chosen_latents": torch.randn(2, 4, 8, 8, generator=make),
        "chosen_time_ids": torch.full((2, 6), 16.0),
        "prompt_embeds": torch.randn(2, 8, 24, generator=make),
        "pooled_prompt_embeds": torch.randn(2, 16, generator=make),
    }
    task = denoising_task(batch, sdxl.load_scheduler(), seed=0, with_rejected=False)
    before = reference.predict(task)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(1.0)
    assert torch.equal(reference.predict(task), before)
    assert before.dtype == dtype
    assert not before.requires_grad
