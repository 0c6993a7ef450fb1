"""Whole runs of the random pipeline, in this process."""

import copy
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from adapters import LORA
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mapolab import objectives
from mapolab.data import datasets
from mapolab.data.images import load
from mapolab.data.order import GlobalOrder, MicroStep, MicroSteps
from mapolab.diffusion.errors import denoising_task, pair_errors, predict
from mapolab.errors import UserError
from mapolab.models.lora_files import LORA_FILE
from mapolab.models.reference import FrozenCopy
from mapolab.models.sdxl import SDXL
from mapolab.streams import Stream, generator
from mapolab.training.data import build_datamodule, held_out_config, open_data
from mapolab.training.run import train

BETAS = {"sft": {}, "mapo": {"beta": 8.0}, "diffusion_dpo": {"beta": 2000.0}, "diffusion_kto": {"beta": 1000.0}}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "unet" / "diffusion_pytorch_model.safetensors")


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").open()))


def manifest(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text())


def changed(config: dict, **blocks) -> dict:
    """A copy of a config with some keys of its blocks replaced: `changed(config, trainer={"max_steps": 2})`."""
    config = copy.deepcopy(config)
    for name, block in blocks.items():
        config[name] = {**config[name], **block} if isinstance(block, dict) and name != "objective" else block
    return config


def by_hand(
    config: dict, empty: list[torch.Tensor] | None = None, curves: list[dict[str, float]] | None = None
) -> dict[str, torch.Tensor]:
    """The same training as a plain PyTorch loop, on the latents that the run has cached.

    empty: prompt_embeds and pooled_prompt_embeds of a dropped prompt. curves: gets a row for each step.
    """
    settings, data = config["trainer"], config["data"]
    sdxl = SDXL(config["model"]["pretrained"])
    unet, scheduler = sdxl.load_unet(), sdxl.load_scheduler()
    reference = FrozenCopy(unet)
    objective = objectives.build(**config["objective"])
    datamodule = build_datamodule(config, objective, open_data(config, objective), sdxl)
    datamodule.setup("fit")
    steps = iter(MicroSteps(datamodule.dataset.order, 0, 0, 100, data["batch_size"]))
    options = {key: value for key, value in config["optimizer"].items() if key not in ("_target_", "fused")}
    optimizer = torch.optim.AdamW(unet.parameters(), **options)
    schedule = get_scheduler(
        config["schedule"]["name"], optimizer, num_warmup_steps=config["schedule"]["warmup_steps"],
        num_training_steps=settings["max_steps"],
    )  # fmt: skip
    average = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    for step in range(1, settings["max_steps"] + 1):
        losses = []
        for _ in range(settings["gradient_accumulation"]):
            batch = datamodule.dataset.__getitems__(next(steps))
            for row, position in enumerate(batch["positions"]):
                if generator(config["seed"], Stream.PROMPT_DROPOUT, position).random() < data["prompt_dropout"]:
                    batch["prompt_embeds"][row], batch["pooled_prompt_embeds"][row] = (one[0] for one in empty)
            span = config["diffusion"]["timestep_range"]
            task = denoising_task(batch, scheduler, config["seed"], with_rejected=True, timesteps_from=span)
            predictions = predict(unet, task), task.target, reference.predict(task)
            factors = None
            if config["diffusion"]["timestep_weighting"] == "min_snr":
                signal = scheduler.alphas_cumprod[task.timesteps[: data["batch_size"]]]
                factors = (config["diffusion"]["min_snr_gamma"] * (1 - signal) / signal).clamp(max=1)
            loss = objective(pair_errors(*predictions, with_rejected=True, weights=factors)).loss
            losses.append(loss.item())
            (loss / settings["gradient_accumulation"]).backward()
        norm = torch.nn.utils.clip_grad_norm_(unet.parameters(), settings["gradient_clip_norm"])
        if curves is not None:
            rate = schedule.get_last_lr()[0]
            curves.append({"loss": np.mean(losses), "gradient_norm": norm.item(), "learning_rate": rate})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        with torch.no_grad():
            decay = min(settings["ema_decay"] or 0, (1 + step) / (10 + step))
            for name, tensor in unet.state_dict().items():
                average[name] = decay * average[name] + (1 - decay) * tensor
            if config["model"]["reference"] == "ema":
                decay = config["model"]["reference_ema_decay"]
                for followed, tensor in zip(reference.unet.parameters(), unet.parameters(), strict=True):
                    followed.copy_(decay * followed + (1 - decay) * tensor)
    return average if settings["ema_decay"] else unet.state_dict()


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Two implementations of AdamW (fused and not): rounding, times six steps of normalised updates."""
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("method", ["mapo", "diffusion_dpo"])
def test_a_run_equals_a_plain_training_loop(train_config, method):
    config = changed(train_config, objective={"name": method, **BETAS[method]})
    config["trainer"]["gradient_clip_norm"] = 0.7
    run, curves = train(config), []
    assert_close(weights(run), by_hand(config, curves=curves))
    for row, expected in zip(rows(run), curves, strict=True):
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, rel=2e-3)
    assert max(one["gradient_norm"] for one in curves) > 0.7  # as it was before it was clipped


def test_the_reference_reads_prompts_as_they_were(train_config):
    """Adapters in the text encoders change the model's prompts alone: the reference's errors are the base's."""
    lora = LORA | {"text_encoders": True, "text_encoder_learning_rate": 1.0}
    config = changed(train_config, objective={"name": "diffusion_dpo", **BETAS["diffusion_dpo"]})
    config["trainer"] |= {"max_steps": 3, "gradient_accumulation": 1}
    config["schedule"] = {"name": "constant", "warmup_steps": 0}
    run = train(changed(config, model={"lora": lora}, data={"cache": False}))
    sdxl = SDXL(config["model"]["pretrained"])
    unet, scheduler = sdxl.load_unet(), sdxl.load_scheduler()
    objective = objectives.build(**config["objective"])
    datamodule = build_datamodule(config, objective, open_data(config, objective), sdxl)
    train(config)  # makes the cache, with the prompts of the base
    datamodule.setup("fit")
    steps = iter(MicroSteps(datamodule.dataset.order, 0, 0, 3, config["data"]["batch_size"]))
    for row in rows(run):
        task = denoising_task(datamodule.dataset.__getitems__(next(steps)), scheduler, config["seed"], True)
        with torch.no_grad():
            errors = pair_errors(predict(unet, task), task.target, None, True)
        for side in ("chosen", "rejected"):
            found = float(row[f"reference_error_{side}"])
            assert found == pytest.approx(getattr(errors, side).mean().item(), rel=1e-4)
    assert float(row["error_chosen"]) != pytest.approx(float(row["reference_error_chosen"]), rel=1e-3)


def test_a_range_of_timesteps_and_their_weights_equal_the_loops(train_config):
    config = changed(train_config, diffusion={"timestep_weighting": "min_snr", "timestep_range": [100, 499]})
    assert_close(weights(train(config)), by_hand(config))


def test_an_average_of_the_weights_equals_the_loops(train_config):
    """0.3 is reached at the third step: before it the decay grows."""
    config = changed(train_config, trainer={"ema_decay": 0.3})
    found = weights(train(config))
    assert_close(found, by_hand(config))
    last = by_hand(train_config)
    assert (found["conv_out.weight"] - last["conv_out.weight"]).abs().max() > 1e-4


def test_a_moving_reference_equals_the_loops(train_config):
    moving = {"reference": "ema", "reference_ema_decay": 0.8}
    config = changed(train_config, model=moving, objective={"name": "diffusion_dpo", **BETAS["diffusion_dpo"]})
    assert_close(weights(train(config)), by_hand(config))


@pytest.mark.parametrize("zeros", [True, False])
def test_prompt_dropout_equals_the_loops(train_config, tiny_pipeline_folder, tmp_path, zeros):
    """A dropped prompt loses both of its embeddings: to zeros, or to those of the empty prompt."""
    folder = shutil.copytree(tiny_pipeline_folder, tmp_path / "pipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": zeros}))
    config = changed(train_config, data={"prompt_dropout": 0.5}, model={"pretrained": str(folder)})
    found = weights(train(config))
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    embeds, _, pooled, _ = pipeline.encode_prompt("", do_classifier_free_guidance=False)
    empty = [torch.zeros_like(one) if zeros else one.detach() for one in (embeds, pooled)]
    assert_close(found, by_hand(config, empty))


def test_validation_is_the_objective_on_other_pairs_without_dropout(train_config, tmp_path):
    """The last row against the saved adapters, with all layers as in use; each pair at its own noise and timestep."""
    lora = LORA | {"dropout": 0.5}
    settings = {"max_steps": 2, "validate_every": 2, "validation_pairs": 10, "gradient_accumulation": 1}
    data = {"validation_path": train_config["data"]["path"], "prompt_dropout": 0.5}
    dpo = {"name": "diffusion_dpo", "beta": 2000.0}
    config = changed(train_config, model={"lora": lora}, trainer=settings, data=data, objective=dpo)
    config["schedule"], config["optimizer"]["lr"] = {"name": "constant", "warmup_steps": 0}, 0.05
    run = train(config)
    sdxl = SDXL(config["model"]["pretrained"])
    unet, plain, scheduler = sdxl.load_unet(), sdxl.load_unet(), sdxl.load_scheduler()
    unet.load_lora_adapter(run / "lora", weight_name=LORA_FILE, prefix="unet")
    unet.eval()  # the adapters come with their dropout
    objective, held_out = objectives.build(**dpo), held_out_config(config)
    datamodule = build_datamodule(held_out, objective, open_data(held_out, objective), sdxl)
    datamodule.setup("fit")
    first, sums = (1 << 48) // 10 * 10, {"loss": 0.0, "margin": 0.0, "implicit_accuracy": 0.0}
    with torch.no_grad():
        for start in range(first, first + 10, 2):
            batch = datamodule.dataset.__getitems__(MicroStep([start, start + 1], start + 2))
            task = denoising_task(batch, scheduler, config["seed"], with_rejected=True)
            errors = pair_errors(predict(unet, task), task.target, predict(plain, task), True, labels=batch["labels"])
            result = objective(errors)
            for name in sums:
                sums[name] += float(result.loss if name == "loss" else result.logs[name]) / 5
    start, end = csv.DictReader((run / "validation.csv").open())
    assert float(start["loss"]) == pytest.approx(0.693147, abs=1e-6) and float(start["margin"]) == 0
    assert end["step"] == "2" and abs(sums["margin"]) > 1e-4
    assert {name: float(end[name]) for name in sums} == pytest.approx(sums, rel=1e-3)


@pytest.mark.parametrize("method", list(BETAS))
def test_a_run_leaves_all_that_it_promises(train_config, method, tiny_pipeline_folder):
    run = train(changed(train_config, objective={"name": method, **BETAS[method]}))
    assert run.parent == Path(train_config["output_root"]) / "test"
    unet = UNet2DConditionModel.from_pretrained(run / "unet")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_pipeline_folder, unet=unet)
    image = pipeline("a fox", height=16, width=16, num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 16, 16, 3)

    steps = rows(run)
    assert [int(row["step"]) for row in steps] == list(range(6))
    assert [int(row["consumed_samples"]) for row in steps] == [4, 8, 12, 16, 20, 24]
    assert [bool(steps[0]["error_rejected"]), bool(steps[0]["reference_error_chosen"])] == [
        method != "sft",
        method.startswith("diffusion"),
    ]
    assert [float(row["learning_rate"]) for row in steps][:3] == [0.0, 0.0005, 0.001]
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000004", "step-00000006"]
    found = manifest(run)
    assert found["status"] == "finished"
    assert found["steps"] == 6
    assert found["restarts"] == 0
    assert found["label"].startswith(method)
    assert found["hardware"]["cores"] >= 1


def test_the_first_step_is_that_of_the_base_model(train_config):
    run = train(changed(train_config, objective={"name": "diffusion_dpo", "beta": 2000.0}))
    first = rows(run)[0]
    assert first["error_chosen"] == first["reference_error_chosen"]
    assert float(first["margin"]) == 0
    assert float(first["loss"]) == pytest.approx(0.693147, abs=1e-6)


def test_sft_sees_no_rejected_image_and_only_dpo_builds_a_reference(train_config, monkeypatch):
    seen, references = [], []
    monkeypatch.setattr(datasets, "load", lambda data, *rest: seen.append(data) or load(data, *rest))
    initialise = FrozenCopy.__init__
    monkeypatch.setattr(
        FrozenCopy, "__init__", lambda self, *a, **k: references.append(self) or initialise(self, *a, **k)
    )
    config = changed(train_config, data={"cache": False})
    train(changed(config, objective={"name": "sft"}))
    order, pairs = GlobalOrder(config["seed"], np.arange(10)), parquet.read_table(config["data"]["path"]).to_pylist()
    visited = [pairs[order.row(position)] for position in range(24)]
    assert seen == [pair["jpg_0"] if pair["label_0"] == 1 else pair["jpg_1"] for pair in visited]
    train(config)
    assert references == []
    train(changed(config, objective={"name": "diffusion_dpo", "beta": 2000.0}))
    assert len(references) == 1


def test_cached_and_on_line_runs_agree(train_config):
    config = changed(train_config, data={"flip_probability": 0.5, "vae_posterior": "sample"})
    cached = weights(train(config))
    online = weights(train(changed(config, data={"cache": False})))
    for name, tensor in cached.items():
        torch.testing.assert_close(tensor, online[name], rtol=1e-3, atol=1e-4)


def test_swapped_labels_swap_the_curves(train_config):
    plain = rows(train(train_config))[0]
    run = train(changed(train_config, data={"label_flip_probability": 1.0}))
    swapped = rows(run)[0]
    for name, other in [("error_chosen", "error_rejected"), ("error_rejected", "error_chosen")]:
        assert float(plain[name]) == pytest.approx(float(swapped[other]), rel=1e-6)
    assert manifest(run)["notes"] == ["labels flipped with probability 1.0"]


def test_gradient_checkpointing_changes_nothing_but_memory(train_config):
    plain = weights(train(train_config))
    saved = weights(train(changed(train_config, model={"gradient_checkpointing": True})))
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, saved[name], rtol=1e-5, atol=1e-6)


def test_mixed_precision_keeps_float32_weights(train_config):
    run = train(
        changed(train_config, trainer={"precision": "bf16-mixed"}, objective={"name": "diffusion_dpo", "beta": 9.0})
    )
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.float32}
    assert float(rows(run)[0]["error_chosen"]) == pytest.approx(1, abs=0.2)


def test_adafactor(train_config):
    adafactor = {
        "_target_": "transformers.optimization.Adafactor", "lr": 1e-3, "weight_decay": 0.0,
        "relative_step": False, "scale_parameter": False,
    }  # fmt: skip
    config = copy.deepcopy(train_config)
    config["optimizer"] = adafactor
    assert len(rows(train(config))) == 6


def test_tensorboard_gets_the_curves_too(train_config):
    logger = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": "tensorboard", "version": ""}
    run = train(changed(train_config, trainer={"log_every": 2}) | {"logger": logger})
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [0, 2, 4]
    assert events.Scalars("loss")[1].value == pytest.approx(float(rows(run)[2]["loss"]))


def test_an_evaluation_that_cannot_be_drawn_is_refused_at_the_start(train_config):
    for key, value, message in (
        ("steps", 1001, r"evaluation\.steps=1001, but the model has 1000 timesteps"),
        ("guidance_scale", 0.0, r"evaluation\.guidance_scale is 0\.0; give 1 or more"),
        ("height", 17, r"evaluation\.height is 17; .*a multiple of 8"),
    ):
        with pytest.raises(UserError, match=message):
            train(train_config | {"evaluation": train_config["evaluation"] | {key: value}})


def test_a_seed_of_more_bits_than_libraries_take(train_config):
    train_config["seed"], train_config["trainer"]["max_steps"] = 2**62 + 1, 1
    assert (train(train_config) / "unet").is_dir()
