"""What a model says of its noise process: read as diffusers reads it, or refused by name before anything is loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file

from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.mismatch import mismatch
from mapolab.models.sdxl import SDXL
from mapolab.pairs.command import make_pairs
from mapolab.plan.models import read_architecture
from mapolab.training.prepare import prepare_cache
from mapolab.training.run import train

PLAYGROUND = {
    "_class_name": "EDMDPMSolverMultistepScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5,
    "num_train_timesteps": 1000, "prediction_type": "epsilon",
}  # fmt: skip


@pytest.fixture
def folder(tiny_pipeline_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_pipeline_folder, tmp_path / "model")


def put(folder: Path, config: dict, whole: bool = False) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(config if whole else json.loads(file.read_text()) | config))


def fault(**fields) -> str:
    with pytest.raises(UserError) as raised:
        SDXL(**fields).check()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("command", ["train", "prepare", "plan", "evaluate", "mismatch", "make-pairs"])
def test_every_command_refuses_another_process(command, folder, train_config, tmp_path, monkeypatch):
    put(folder, PLAYGROUND, whole=True)
    for kind in ("load_unet", "load_vae", "load_text_encoders"):
        monkeypatch.setattr(SDXL, kind, lambda *_: pytest.fail("something was loaded"))
    (tmp_path / "prompts.txt").write_text("a fox\n")
    train_config["model"]["pretrained"] = str(folder)
    named, out = [f"models=[{folder}]", f"prompts={tmp_path / 'prompts.txt'}"], f"output_root={tmp_path / 'outputs'}"
    data = [f"model.pretrained={folder}", f"data.path={train_config['data']['path']}", "data.resolution=16"]
    pairs = ["recipe=ranked", "images_per_prompt=2", "ranked_by=[jpeg_size]", f"output_dir={tmp_path / 'pairs'}"]
    commands = {
        "train": lambda: train(train_config),
        "prepare": lambda: prepare_cache(train_config | {"part": 0, "parts": 1, "verify": False}),
        "plan": lambda: read_architecture(train_config["model"], train_config["diffusion"]),
        "evaluate": lambda: evaluate(compose("evaluate", [*named, out])),
        "mismatch": lambda: mismatch(compose("mismatch", [*data, out])),
        "make-pairs": lambda: make_pairs(compose("make-pairs", [*named, *pairs, out])),
    }
    with pytest.raises(
        UserError, match=r"has the scheduler EDMDPMSolverMultistepScheduler, EDM's process \(Playground"
    ):
        commands[command]()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler, EDM's process"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
            "FlowMatchEulerDiscreteScheduler, flow match",
        ),
        (
            {"_class_name": "LCMScheduler", "original_inference_steps": 50},
            "LCMScheduler, of a model distilled to a few",
        ),
        ({"_class_name": "TCDScheduler"}, "TCDScheduler, of a model distilled to a few steps"),
        ({"_class_name": "MyScheduler"}, r"has the scheduler MyScheduler\. mapolab trains"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas=True in its scheduler_config.json, flow matching"),
        ({"timestep_type": "continuous"}, "timestep_type=continuous"),
        ({"sigma_data": 1.0}, "sigma_data in its scheduler_config.json, a setting of EDM"),
        ({"variance_type": "learned_range"}, "variance_type=learned_range"),
        ({"beta_schedule": None}, "has no beta_schedule; it is one of linear, scaled_linear"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
        ({"beta_start": None}, "beta_start and beta_end are None and 0.012"),
        ({"beta_end": "0.012"}, "beta_start and beta_end are 0.00085 and 0.012"),
        ({"trained_betas": [0.1] * 10}, "trained_betas must be 1000 numbers"),
        ({"trained_betas": [0.0] * 1000}, "trained_betas must be 1000 numbers above 0"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps is '1000'"),
        ({"timestep_spacing": "karras"}, "timestep_spacing is 'karras'"),
        ({"steps_offset": -1}, "steps_offset is -1"),
        ({"prediction_type": "sample"}, "prediction_type='sample'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction'"),
    ],
)
def test_processes_that_are_not_trained(folder, config, message):
    put(folder, config)
    with pytest.raises(UserError, match=message):
        SDXL(str(folder)).check()


def test_an_empty_config(folder):
    put(folder, {}, whole=True)
    assert "does not say how its UNet was trained: has no beta_schedule" in fault(pretrained=str(folder))


def test_the_class_in_the_index_counts_too(folder):
    """diffusers loads that class, whatever the config names."""
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "EDMEulerScheduler"]}))
    assert "has the scheduler EDMEulerScheduler" in fault(pretrained=str(folder))


@pytest.mark.parametrize(
    "process",
    [
        {"num_train_timesteps": 500},
        {"trained_betas": [0.001 + number / 1e5 for number in range(1000)], "beta_schedule": None},
        {"beta_schedule": "squaredcos_cap_v2", "beta_start": None, "beta_end": None},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    ],
)
def test_other_betas_are_taken_as_they_are(folder, process):
    put(folder, process)
    sdxl = SDXL(str(folder))
    sdxl.check()
    given = {key: value for key, value in process.items() if value is not None}
    own = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    expected = DDPMScheduler(**own | given).alphas_cumprod
    assert torch.equal(sdxl.load_scheduler().alphas_cumprod, expected)
    assert torch.equal(sdxl.load_sampler("ddim").alphas_cumprod, expected)


def test_a_few_step_models_spacing_is_kept(folder):
    """SDXL Turbo and Lightning are drawn from the last timestep on."""
    put(folder, {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"})
    assert SDXL(str(folder)).sampler_config("euler")["timestep_spacing"] == "trailing"


SDXL_TENSORS = {
    name: torch.ones(1)
    for name in (
        "model.diffusion_model.x", "first_stage_model.x", "conditioner.embedders.0.transformer.x",
        "conditioner.embedders.1.model.x",
    )
}  # fmt: skip
VELOCITY, NOISE = ("v_prediction", False), ("epsilon", False)


@pytest.mark.parametrize(
    ("markers", "metadata", "expected"),
    [
        ((), {"modelspec.prediction_type": "v"}, VELOCITY),
        ((), {"modelspec.prediction_type": "epsilon", "modelspec.predict_key": "epsilon"}, NOISE),
        ((), {"modelspec.predict_key": "v"}, VELOCITY),
        ((), {"ss_v_parameterization": "True"}, VELOCITY),
        ((), {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, ("v_prediction", True)),
        ((), {"ss_v_parameterization": "False", "modelspec.architecture": "stable-diffusion-xl-v1-base"}, NOISE),
        ((), {"ss_v_parameterization": "None", "format": "pt"}, NOISE),
        (("v_pred",), {"modelspec.prediction_type": "v"}, VELOCITY),
        (("v_pred", "ztsnr"), {}, ("v_prediction", True)),
        (
            ("v_pred",),
            {"modelspec.prediction_type": "epsilon"},
            "contradicts itself: it has the tensor v_pred and models",
        ),
        (
            (),
            {"modelspec.predict_key": "v", "ss_v_parameterization": "False"},
            "has modelspec.predict_key=v and ss_v_p",
        ),
        (
            ("v_pred", "ztsnr"),
            {"ss_zero_terminal_snr": "False"},
            "it has the tensor ztsnr and ss_zero_terminal_snr=False",
        ),
        (("ztsnr",), {}, "needs a model that predicts the velocity"),
        ((), {"modelspec.prediction_type": "rectified flow"}, "says modelspec.prediction_type=rectified flow"),
        (("edm_mean", "edm_std"), {}, "holds edm_mean, so its noise process is EDM's"),
        (("edm_vpred.sigma_max",), {}, "holds edm_vpred.sigma_max, so its noise process is EDM's"),
        ((), {"modelspec.architecture": "stable-diffusion-xl-v1-refiner"}, "which is no SDXL base"),
        ((), {"modelspec.architecture": "flux-1-dev"}, "says modelspec.architecture=flux-1-dev"),
    ],
)
def test_what_a_single_file_says(tiny_pipeline_folder, tmp_path, markers, metadata, expected):
    file, configs = tmp_path / "model.safetensors", str(tiny_pipeline_folder)
    save_file(SDXL_TENSORS | {name: torch.tensor([]) for name in markers}, file, metadata)
    if isinstance(expected, str):
        assert expected in fault(pretrained=str(file), single_file_config=configs)
        return
    sdxl = SDXL(str(file), single_file_config=configs)
    sdxl.check()
    process = sdxl.load_scheduler().config
    assert (process.prediction_type, process.rescale_betas_zero_snr) == expected


def test_a_single_file_and_the_config_that_it_borrows_must_agree(folder, tmp_path):
    file = tmp_path / "model.safetensors"
    put(folder, {"prediction_type": "v_prediction"})
    save_file(SDXL_TENSORS, file)
    assert SDXL(str(file), single_file_config=str(folder)).load_scheduler().config.prediction_type == "v_prediction"
    save_file(SDXL_TENSORS, file, {"modelspec.prediction_type": "epsilon"})
    assert f"model.single_file_config={folder} says v_prediction" in fault(
        pretrained=str(file), single_file_config=str(folder)
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latent_channels": 16}, "has 16 latent channels, the UNet 4"),
        ({"shift_factor": 0.1159}, "has shift_factor 0.1159, which SDXL's pipeline does not apply"),
        ({"scaling_factor": None}, "has scaling_factor None"),
        ({"latents_mean": [0.0] * 4}, "latents_mean and latents_std that are not both 4 numbers"),
        ({"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3}, "not both 4 numbers"),
    ],
)
def test_a_vae_whose_latents_are_not_the_unets(folder, tiny_pipeline_folder, config, message):
    """Of the model, or given beside it. Means and deviations of latents are honoured: see `test_sdxl`."""
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    assert message in fault(pretrained=str(folder))
    assert message in fault(pretrained=str(tiny_pipeline_folder), vae=str(folder / "vae"))
    SDXL(str(folder), vae=str(tiny_pipeline_folder / "vae")).check()
