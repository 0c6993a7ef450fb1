"""Pictures that are really drawn: by which scheduler, from which noise, and what of the settings is refused before."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mapolab.diffusion.samplers import SAMPLERS
from mapolab.errors import UserError
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.generation import picture_keys
from mapolab.evaluation.models import find_models
from mapolab.evaluation.options import USUAL
from mapolab.evaluation.prompt_lengths import cut_by_models
from mapolab.files import read_json
from mapolab.reading import read_rows

TWIN = "builtin:tiny_twin"


@pytest.fixture
def drawn(tmp_path):
    """drawn(model, **options) -> (folder, pictures (N, H, W, 3) as numbers from 0 to 255)."""
    (tmp_path / "prompts.txt").write_text("a drawing of a fox on a blue background\na dog face on red\n")

    def draw(model, **options):
        usual = {"prompts": str(tmp_path / "prompts.txt"), "output_root": str(tmp_path / "outputs"), "batch_size": 2}
        (folder,) = evaluate({"models": [str(model)], **usual, **options})
        files = [folder / row["image"] for row in read_rows(folder / "scores.csv")]
        return folder, np.stack([np.asarray(Image.open(file)).astype(int) for file in files])

    return draw


def test_the_twin_draws_what_it_is_told_with_every_scheduler(drawn):
    prompts = "builtin:emoji/prompts/test.csv"
    pictures = {}
    for name in ("euler", "ddim", "dpm++", "euler_ancestral"):
        options = {"steps": 20, "guidance_scale": 3.0, "seed": 7, "limit": 4, "scorers": ["concept"], "batch_size": 4}
        folder, pictures[name] = drawn(TWIN, scheduler=name, prompts=prompts, **options)
        assert [float(row["concept"]) for row in read_rows(folder / "scores.csv")] == [1.0] * 4
    assert abs(pictures["ddim"] - pictures["euler"]).max() <= 1
    assert 1 < abs(pictures["dpm++"] - pictures["euler"]).mean() < 12
    assert abs(pictures["euler_ancestral"] - pictures["euler"]).mean() > 5  # it is another picture of the same


def test_ddim_is_the_same_whatever_class_the_config_has(drawn, tiny_pipeline_folder, tmp_path):
    """A config without `clip_sample` once got that of DDIM: predictions cut to -1 .. 1."""
    process = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "leading",
    }
    found = []
    for number, more in enumerate(({}, {"clip_sample": True, "set_alpha_to_one": False}, {"clip_sample": False})):
        folder = shutil.copytree(tiny_pipeline_folder, tmp_path / f"model-{number}")
        config = {"_class_name": ("PNDMScheduler", "DDIMScheduler", "DDPMScheduler")[number], "steps_offset": 1}
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | process | more))
        found += [drawn(folder, scheduler=name, steps=10)[1] for name in ("ddim", "euler")]
    for pictures in found[1:]:
        assert abs(pictures - found[0]).max() <= 1


def test_added_noise_is_of_seed_and_position_alone(drawn):
    """Large seeds too, of which torch's generator sees the last 32 bits; and whatever stands beside a picture."""
    options = {"scheduler": "euler_ancestral", "steps": 4, "limit": 1}
    (plain,), (far,) = (drawn(TWIN, seed=seed, **options)[1] for seed in (5, 5 + 2**32))
    assert abs(plain - far).mean() > 5
    _, largest = drawn(TWIN, seed=2**63 - 2, images_per_prompt=2, **options)
    assert abs(largest[0] - largest[1]).mean() > 5
    _, beside = drawn(TWIN, seed=4, images_per_prompt=3, **options)
    assert np.array_equal(beside[1], plain)


def test_the_key_of_a_picture_holds_all_that_its_scheduler_is(tmp_path, monkeypatch):
    (model,) = find_models(TWIN, tmp_path)
    settings = USUAL | {"height": 64, "width": 64, "precision": "float32"}

    def keys() -> list[str]:
        return [picture_keys(model, [("a fox", 0, 0)], settings | {"scheduler": name})[0] for name in SAMPLERS]

    before = keys()
    assert len(set(before)) == 4
    kind, own = SAMPLERS["ddim"]
    monkeypatch.setitem(SAMPLERS, "ddim", (kind, own | {"final_sigmas_type": "sigma_min"}))
    assert [one == other for one, other in zip(before, keys(), strict=True)] == [True, True, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1001, "scheduler": "ddim"}, r"^steps=1001, but the model has 1000 timesteps\. Give 1 to 1000 steps"),
        ({"steps": 1001}, "steps=1001, but the model has 1000 timesteps"),
        ({"steps": 1}, r"would begin at timestep 1 of 1000.* such as 2 or 4\."),
        ({"steps": 0}, "steps is 0; give 1 or more"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan; give 1 or more"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf; give a finite number, 1 or more"),
        ({"guidance_scale": 0.5}, "guidance_scale is 0.5; give 1 or more"),
        ({"negative_prompt": "rain", "guidance_scale": 1.0}, "negative_prompt has no effect without guidance"),
        ({"seed": 2**63}, r"seed is 9223372036854775808; give a number below 2\^63"),
        ({"seed": -1}, "seed is -1; give 0 or more"),
        ({"height": 60}, "height is 60; .*a multiple of 8"),
        ({"images_per_prompt": 0}, "images_per_prompt is 0; give 1 or more"),
        ({"limit": 0}, "limit is 0; give 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; give 1 or more"),
        ({"scheduler": "pndm"}, "scheduler=pndm does not exist"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused_before(drawn, monkeypatch, options, message):
    """Also where they come from a run's config and no schema has seen them."""
    monkeypatch.setattr("mapolab.evaluation.generation.load_pipeline", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=message):
        drawn(TWIN, **options)


def test_a_size_must_fit_the_models_own_vae(drawn, tiny_pipeline_folder, tmp_path):
    folder = shutil.copytree(tiny_pipeline_folder, tmp_path / "model")
    config = read_json(folder / "vae" / "config.json")
    levels = {"block_out_channels": [8] * 5, "down_block_types": ["DownEncoderBlock2D"] * 5}
    (folder / "vae" / "config.json").write_text(json.dumps(config | levels))
    with pytest.raises(UserError, match=r"height is 24, but the VAE of .* makes 16 pixels of each latent"):
        drawn(folder, height=24, width=32)


def test_a_long_negative_prompt_is_told(drawn, capsys):
    folder, _ = drawn(TWIN, steps=2, limit=1, negative_prompt="rain and more rain " * 9)
    assert (
        "The negative prompt is longer than the model takes, which reads only its beginning." in capsys.readouterr().out
    )
    told = {"the model": 0, "the model's negative prompt": 1}
    assert read_json(folder / "settings.json")["cut_prompts"] == told


def test_a_prompt_that_the_second_encoder_cuts_is_counted(drawn, tmp_path):
    """Each encoder has a tokenizer of its own."""
    folder = shutil.copytree(find_models(TWIN, tmp_path)[0].sdxl.parts.part_folder("unet").parent, tmp_path / "model")
    file = folder / "text_encoder_2" / "config.json"
    file.write_text(json.dumps(read_json(file) | {"max_position_embeddings": 6}))
    settings = {"negative_prompt": "a fox", "guidance_scale": 3.0}
    for path, counted in ((TWIN, 0), (folder, 1)):
        models = find_models(str(path), tmp_path)
        assert cut_by_models(models, ["a fox", "a fox on a blue background"], settings)["the model"] == counted
