"""Each way to train: an interrupted run ends with the same weights to the bit, and what it saves opens in diffusers."""

import copy
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import LORA
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

from mapolab.errors import Interrupted, UserError
from mapolab.models.lora_files import LORA_FILE
from mapolab.models.sdxl import SDXL
from mapolab.models.trained import load_trained
from mapolab.training.metrics import MetricsFile, StepMetrics
from mapolab.training.run import train

DPO = {"name": "diffusion_dpo", "beta": 2000.0}
ON_LINE = {"cache": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"model": {"lora": LORA}},
    "dora": {"model": {"lora": LORA | {"dora": True}}, "objective": DPO},
    "lora with dropout": {"model": {"lora": LORA | {"dropout": 0.5}}},
    "half-precision base": {
        "model": {"lora": LORA, "frozen_dtype": "bfloat16"},
        "trainer": {"precision": "bf16-mixed"},
    },
    "text encoders": {
        "model": {"lora": LORA | {"text_encoders": True, "text_encoder_learning_rate": 1e-4}},
        "data": ON_LINE,
        "objective": DPO,
    },
    "lora and average": {"model": {"lora": LORA}, "trainer": {"ema_decay": 0.9, "ema_on_cpu": True}},
    "8-bit": {"optimizer": {"_target_": "bitsandbytes.optim.AdamW8bit", "lr": 1e-3}},
    "pure bfloat16": {
        "model": {"trained_dtype": "bfloat16"},
        "optimizer": {"_target_": "torchao.optim._AdamW", "lr": 1e-3, "bf16_stochastic_round": True},
        "trainer": {"precision": "bf16-mixed"},
    },
    "offloaded reference": {"model": {"reference": "offloaded_copy", "reference_dtype": "bfloat16"}, "objective": DPO},
    "channels last": {"model": {"channels_last": True}},
    "prompt dropout": {"data": {"prompt_dropout": 0.5}},
    "min-SNR on a range": {"diffusion": {"timestep_weighting": "min_snr", "timestep_range": [100, 499]}},
    "float64": {"trainer": {"precision": "64-true"}, "model": {"reference_dtype": "float64"}, "objective": DPO},
    "averaged reference": {"model": {"reference": "ema", "reference_ema_decay": 0.5}, "objective": DPO},
    "refreshed reference": {
        "model": {"lora": LORA | {"dropout": 0.5}, "reference": "refreshed", "reference_refresh_every": 2},
        "objective": DPO,
    },
    "inverted noise": {
        "objective": {"name": "inpo", "beta": 2000.0},
        "diffusion": {"noise": "ddim_inversion", "inversion_steps": 3, "inversion_noise": 0.1},
    },
    "safeguard around dspo": {
        "objective": {"name": "sdpo", "mu": 0.6, "base": {"name": "dspo", "beta": 2000.0, "strength": 0.5}}
    },
    "half-precision encoders": {"model": {"encoder_dtype": "float16"}, "data": ON_LINE},
}
HAS_COMPILER = shutil.which("g++") or shutil.which("clang++")
NEEDS = {"8-bit": "bitsandbytes", "pure bfloat16": "torchao"}


def with_settings(config: dict[str, Any], settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    config = copy.deepcopy(config) | {"output_dir": str(folder)}
    for name, block in settings.items():
        config[name] = block if name in ("objective", "optimizer") else config[name] | block
    return config


def trained(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "lora" if (run / "lora").exists() else run / "unet"
    return load_file(next(folder.glob("*.safetensors")))


def interrupted_after(step: int, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C while the metrics of a step are written, once."""
    write = StepMetrics._write

    def write_and_interrupt(self: StepMetrics, trainer: Any, number: int) -> None:
        write(self, trainer, number)
        if number == step:
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StepMetrics, "_write", write_and_interrupt)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_resumes_to_the_bit(train_config, tmp_path, monkeypatch, name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    if name == "pure bfloat16" and not HAS_COMPILER:
        pytest.skip("no C++ compiler")
    undisturbed = train(with_settings(train_config, SETTINGS[name], tmp_path / "undisturbed"))
    again = with_settings(train_config, SETTINGS[name], tmp_path / "interrupted")
    interrupted_after(2, monkeypatch)
    with pytest.raises(Interrupted):
        train(again)
    expected, found = trained(undisturbed), trained(train(again))
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    losses = [
        [row["loss"] for row in MetricsFile(run / "metrics.csv").rows()]
        for run in (undisturbed, tmp_path / "interrupted")
    ]
    assert losses[0] == losses[1]
    checkpoint = trained(tmp_path / "interrupted" / "checkpoints" / "step-00000004")
    assert any(not torch.equal(checkpoint[key].float(), tensor.float()) for key, tensor in found.items())


def test_a_run_goes_on_with_passes_of_another_size(train_config, tmp_path, monkeypatch):
    """After step 3 the passes done, 6, are no whole steps of the new size, 4."""
    undisturbed = train(with_settings(train_config, SETTINGS["float64"], tmp_path / "undisturbed"))
    again = with_settings(train_config, SETTINGS["float64"], tmp_path / "interrupted")
    interrupted_after(2, monkeypatch)
    with pytest.raises(Interrupted):
        train(again)
    again["data"] |= {"batch_size": 1}
    again["trainer"] |= {"gradient_accumulation": 4}
    rows = [MetricsFile(run / "metrics.csv").rows() for run in (undisturbed, train(again))]
    for row, other in zip(*rows, strict=True):
        assert float(other["loss"]) == pytest.approx(float(row["loss"]), rel=1e-6)


def curve(config: dict[str, Any], settings: dict[str, Any], folder: Path) -> list[str]:
    """The losses of a run, as written."""
    return [row["loss"] for row in MetricsFile(train(with_settings(config, settings, folder)) / "metrics.csv").rows()]


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("prompt dropout", {}),
        ("min-SNR on a range", {"diffusion": {"timestep_range": [100, 499]}}),
        ("lora with dropout", {"model": {"lora": LORA}}),
        ("averaged reference", {"objective": DPO}),
        ("refreshed reference", {"model": {"lora": LORA}, "objective": DPO}),
        ("inverted noise", {"objective": DPO}),
        ("dora", {"model": {"lora": LORA}, "objective": DPO}),
        ("half-precision encoders", {"data": ON_LINE}),
    ],
)
def test_a_setting_does_something(train_config, tmp_path, name, without):
    assert curve(train_config, SETTINGS[name], tmp_path / "with") != curve(train_config, without, tmp_path / "without")


def test_prompts_are_replaced_by_what_the_pipeline_takes_for_none(train_config, tmp_path):
    """Zeros, or the embeddings of the empty prompt, as the pipeline's index says."""
    folder = shutil.copytree(train_config["model"]["pretrained"], tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    curves = []
    for zeros in (True, False):
        (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": zeros}))
        settings = {"model": {"pretrained": str(folder)}, "data": {"prompt_dropout": 1.0}}
        curves.append(curve(train_config, settings, tmp_path / str(zeros)))
    assert curves[0] != curves[1]


def test_text_encoders_have_a_rate_of_their_own_and_attention_is_fused(train_config):
    settings = SETTINGS["text encoders"]["model"]
    trained = load_trained(SDXL(train_config["model"]["pretrained"]), train_config["model"] | settings, seed=0)
    unet, text = trained.parameter_groups()
    assert "lr" not in unet and text["lr"] == 1e-4
    assert {type(processor).__name__ for processor in trained.unet.attn_processors.values()} == {"AttnProcessor2_0"}


@pytest.mark.parametrize("name", ["lora", "dora", "text encoders"])
def test_adapters_open_in_diffusers(train_config, tmp_path, name):
    run = train(with_settings(train_config, SETTINGS[name], tmp_path / "run"))
    saved = trained(run)
    assert saved.keys() == trained(run / "checkpoints" / "step-00000006").keys()
    pipeline = StableDiffusionXLPipeline.from_pretrained(train_config["model"]["pretrained"])
    pipeline.load_lora_weights(run / "lora", weight_name=LORA_FILE)
    loaded = dict(pipeline.unet.named_parameters())
    names = [key for key in saved if key.startswith("unet.") and "lora_B" in key]
    assert names
    for key in names:
        mine = key.removeprefix("unet.").replace(".weight", ".default_0.weight")
        assert torch.equal(loaded[mine], saved[key])
    assert pipeline.unet.peft_config["default_0"].lora_alpha == 8.0
    assert pipeline.unet.peft_config["default_0"].use_dora == (name == "dora")
    in_text = [key for key in saved if key.startswith("text_encoder")]
    assert bool(in_text) == (name == "text encoders")
    if in_text:
        # The first encoder's last layer is never used, so it has no adapter that no gradient would reach.
        assert not any(key.startswith("text_encoder.text_model.encoder.layers.1.") for key in in_text)
        assert all(saved[key].abs().sum() > 0 for key in in_text)
        assert "default_0" in pipeline.text_encoder_2.peft_config


@pytest.mark.parametrize("text_encoders", [False, True])
def test_all_references_of_a_lora_give_one_loss(train_config, tmp_path, text_encoders):
    """Up to float32's rounding of the errors, about 1e-7, which beta multiplies."""
    curves = {}
    for kind in ("lora_off", "frozen_copy", "offloaded_copy"):
        model = {"lora": LORA | {"text_encoders": text_encoders}, "reference": kind}
        settings = {"model": model, "objective": DPO, "data": ON_LINE}
        run = train(with_settings(train_config, settings, tmp_path / kind))
        curves[kind] = [float(row["loss"]) for row in MetricsFile(run / "metrics.csv").rows()]
    assert curves["lora_off"][0] == pytest.approx(0.693147, abs=1e-6)
    assert curves["lora_off"][-1] != pytest.approx(0.693147, abs=1e-5)
    for kind in ("frozen_copy", "offloaded_copy"):
        assert curves[kind] == pytest.approx(curves["lora_off"], abs=3e-4)


def test_a_reference_in_half_precision_is_near(train_config, tmp_path):
    curves = {}
    for dtype in ("float32", "bfloat16"):
        settings = {"model": {"reference_dtype": dtype}, "objective": DPO | {"beta": 10.0}}
        run = train(with_settings(train_config, settings, tmp_path / dtype))
        curves[dtype] = [float(row["reference_error_chosen"]) for row in MetricsFile(run / "metrics.csv").rows()]
    assert curves["bfloat16"] == pytest.approx(curves["float32"], rel=2e-2)


def test_the_settings_that_change_nothing_but_cost(train_config, tmp_path):
    plain = trained(train(with_settings(train_config, {}, tmp_path / "plain")))
    compiled = {"compile": {"compile": True}} if HAS_COMPILER else {}
    for name, model in {"channels_last": {"channels_last": True}, **compiled}.items():
        other = trained(train(with_settings(train_config, {"model": model}, tmp_path / name)))
        for key, tensor in plain.items():
            torch.testing.assert_close(other[key], tensor, rtol=1e-4, atol=2e-5)


def test_a_checkpoint_of_another_kind_is_refused(train_config, tmp_path, monkeypatch):
    interrupted_after(2, monkeypatch)
    with pytest.raises(Interrupted):
        train(with_settings(train_config, SETTINGS["lora"], tmp_path / "run"))
    (tmp_path / "run" / "config.yaml").unlink()
    with pytest.raises(UserError, match="does not hold the weights that this config trains"):
        train(with_settings(train_config, {}, tmp_path / "run"))
