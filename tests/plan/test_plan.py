"""The plan beside what really happens: memory and operations counted in real runs on the CPU."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.plan.accelerators import find_accelerator
from mapolab.plan.command import largest_batch, make_plan
from mapolab.plan.measure import Step
from mapolab.plan.memory import Static, Weights
from mapolab.plan.models import read_architecture
from mapolab.plan.operations import operations_per_step
from mapolab.training.module import AlignmentModule
from mapolab.training.run import train

# 40 million parameters, 64 px.
FORTY_MILLION = {
    "block_out_channels": [96, 192, 256], "transformer_layers_per_block": [1, 2, 2], "attention_head_dim": [3, 6, 8],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 2,
}  # fmt: skip
SETTINGS = {
    "mapo": [],
    "checkpointing": ["model.gradient_checkpointing=true"],
    "adapters": ["model=tiny_twin_lora"],
    "on-line": ["data.cache=false", "data.num_workers=0"],
    "bfloat16": ["trainer.precision=bf16-mixed"],
}


PLAIN = {
    "format": "table", "accelerator": "a100_80gb", "peak_tflops": None, "memory_gib": None, "efficiency": 0.4,
    "reserve_gib": 2.0, "rows": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def forty_million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny twin with a larger UNet of random weights."""
    from mapolab.models.sdxl import SDXL

    folder = tmp_path_factory.mktemp("forty") / "model"
    sdxl = SDXL("builtin:tiny_twin")
    config = dict(sdxl.parts.config("unet")) | FORTY_MILLION
    unet = UNet2DConditionModel.from_config(config)
    assert 35e6 < sum(parameter.numel() for parameter in unet.parameters()) < 45e6
    unet.save_pretrained(folder / "unet")
    source = sdxl.parts.part_folder("vae").parent
    for entry in source.iterdir():
        if entry.name != "unet":
            (folder / entry.name).symlink_to(entry)
    return folder


def overrides(root: Path, *more: str) -> list[str]:
    return [
        "trainer.progress=off", "trainer.max_steps=2", "trainer.log_every=1", "data.cache=true", "data.batch_size=8",
        f"output_root={root}", *more,
    ]  # fmt: skip


def real_peak(config: dict) -> int:
    """Most bytes of tensors that lived at once in a whole run, by the allocator's own account."""
    gc.collect()  # what earlier tests left would be freed within the account
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train(config)
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_peak_memory_of_the_tiny_twin(tmp_path_factory, tmp_path, name):
    given = overrides(tmp_path_factory.getbasetemp() / "plan", *SETTINGS[name])
    config = compose("train", given)
    train(config | {"output_dir": str(tmp_path / "first")})  # makes the cache
    real = real_peak(config | {"output_dir": str(tmp_path / "second")})
    plan = make_plan(compose("plan", [*given, "rows=100"]))
    assert plan["memory"]["peak_bytes"] == pytest.approx(real, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mapo", "diffusion_dpo"])
def test_peak_memory_of_forty_million_parameters(forty_million, tmp_path_factory, tmp_path, objective):
    model = [f"model.pretrained={forty_million}", f"objective={objective}"]
    given = overrides(tmp_path_factory.getbasetemp() / "plan", *model)
    config = compose("train", given)
    train(config | {"output_dir": str(tmp_path / "first")})
    real = real_peak(config | {"output_dir": str(tmp_path / "second")})
    plan = make_plan(compose("plan", [*given, "rows=100"]))
    assert plan["memory"]["peak_bytes"] == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("name", ["mapo", "checkpointing", "adapters", "on-line", "forty million"])
def test_operations(request, tmp_path_factory, tmp_path, monkeypatch, name):
    """PyTorch's counter over one real step; it knows attention only as plain products."""
    more = SETTINGS.get(name) or [f"model.pretrained={request.getfixturevalue('forty_million')}"] * (name != "mapo")
    given = overrides(tmp_path_factory.getbasetemp() / "plan", *more, "trainer.max_steps=1")
    config = compose("train", given)
    train(config | {"output_dir": str(tmp_path / "first")})
    counter = FlopCounterMode(display=False)
    step, optimizer_step = AlignmentModule.training_step, AlignmentModule.optimizer_step

    def counted(self, *arguments):
        if not getattr(counter, "entered", False):
            counter.entered = True
            counter.__enter__()
        return step(self, *arguments)

    def finished(self, *arguments, **keywords):
        optimizer_step(self, *arguments, **keywords)
        counter.__exit__(None, None, None)

    monkeypatch.setattr(AlignmentModule, "training_step", counted)
    monkeypatch.setattr(AlignmentModule, "optimizer_step", finished)
    with sdpa_kernel(SDPBackend.MATH):
        train(config | {"output_dir": str(tmp_path / "second")})
    plan = make_plan(compose("plan", [*given, "rows=100"]))
    assert plan["flops"]["per_step"] == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_sdxl_itself_within_a_minute(tmp_path):
    """Figures of SDXL counted independently, TFLOP per image: forward 6.76, backward 18.68 with checkpointing; and
    peaks at batch 4: MaPO 43.8 GB."""
    settings = [
        "model=sdxl", "data=pickapic_v2", "data.cache=true", "data.batch_size=4", "trainer.precision=bf16-mixed",
        "trainer.max_steps=2000", "objective=mapo", "format=json",
    ]  # fmt: skip
    command = [sys.executable, "-m", "mapolab", "plan", *settings]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    plan = json.loads(process.stdout)
    assert plan["parameters"]["trained"] == 2_567_463_684
    parts = plan["flops"]["parts"]
    assert parts["unet_forward"] / 8e12 == pytest.approx(6.76, rel=0.005)
    assert parts["backward"] / 8e12 == pytest.approx(18.68, rel=0.005)
    assert plan["memory"]["peak_bytes"] / 1e9 == pytest.approx(43.8, rel=0.02)
    assert plan["fits"] and plan["memory"]["largest_batch"] > 16
    assert plan["hours"] == pytest.approx(plan["flops"]["per_step"] * 2000 / (312e12 * 0.4) / 3600)
    assert list(tmp_path.iterdir()) == []
    by_strategy = {(entry["strategy"], entry["devices"]): entry for entry in plan["memory"]["by_strategy"]}
    assert by_strategy["single", 1]["peak_bytes"] == plan["memory"]["peak_bytes"]
    assert by_strategy["fsdp", 8]["peak_bytes"] < by_strategy["deepspeed_zero2", 2]["peak_bytes"]
    assert by_strategy["fsdp", 8]["peak_bytes"] < by_strategy["ddp", 8]["peak_bytes"]


@pytest.mark.parametrize("limit", [40, 61, 99, 150, 1000])
def test_the_largest_batch_fits_and_one_more_would_be_near(limit):
    def peak(pairs: int) -> int:
        return max(60, 20 + 10 * pairs)  # gradients hide the activations of small batches

    found = largest_batch(peak, batch=2, peak=peak(2), limit=limit, guess=int(1.05 * (2 + (limit - 40) / 10)))
    assert found == 0 if limit < 60 else peak(found) <= limit
    assert limit < 60 or peak(int(found * 1.1) + 2) > limit


def test_strategies_divide_what_they_say(tmp_path):
    def static(*more: str) -> Static:
        config = compose("plan", overrides(tmp_path, "trainer.precision=bf16-mixed", *more))
        step = Step(config, read_architecture(config["model"]), None)
        return Weights(config, step).static(8, None, config["strategy"])

    single, ddp = static(), static("strategy=ddp", "strategy.devices=8")
    fsdp, zero = static("strategy=fsdp"), static("strategy=deepspeed_zero3_offload")
    assert ddp.optimizer == single.optimizer and ddp.persistent_gradients
    assert fsdp.optimizer == single.optimizer // 8 and fsdp.weights < single.weights
    assert zero.optimizer == 0 and zero.host > single.optimizer // 8
    eight_bit, adafactor = static("optimizer=adamw_8bit"), static("optimizer=adafactor")
    assert eight_bit.optimizer == pytest.approx(single.optimizer / 4, rel=0.05)
    assert adafactor.optimizer < 0.2 * single.optimizer  # 3x3 kernels are factored over 3 and 3 only


def test_what_cannot_be_planned():
    with pytest.raises(UserError, match="Did you mean a100_80gb"):
        find_accelerator("a100_80g", "32-true")
    with pytest.raises(UserError, match="v100_32gb does not compute in bfloat16"):
        find_accelerator("v100_32gb", "bf16-mixed")
    with pytest.raises(UserError, match="to_qq matches no layer of the UNet"):
        make_plan(compose("plan", ["model=tiny_twin_lora", "model.lora.target_modules=[to_qq]"]))


def test_inverted_noise_and_moving_references_are_counted(train_config):
    """Three steps from 0 to 999: an image takes 1 + ceil(t / 333) forward passes, 3 on average but for rounding."""
    config = train_config | {"objective": {"name": "inpo", "beta": 10.0}}
    config["diffusion"] = config["diffusion"] | {"noise": "ddim_inversion", "inversion_steps": 3}
    architecture = read_architecture(config["model"])
    plain = Step(train_config | {"objective": config["objective"]}, architecture, "frozen_copy").measure(2, False)
    inverted = Step(config, architecture, "frozen_copy").measure(2, False)
    assert inverted.flops["inversion"] / inverted.flops["unet_forward"] == pytest.approx(3, abs=0.01)
    assert inverted.flops | {"inversion": 0} == plain.flops | {"inversion": 0}
    moving = Step(config, architecture, "ema")
    assert moving.measure(2, False).flops["reference"] == plain.flops["reference"]
    weights = Weights(config, moving)
    assert weights.static(1, "ema", config["strategy"]).reference == weights.static(1, None, config["strategy"]).weights


def test_a_rollout_counts_its_passes():
    """Against SFT, whose step is one forward and backward pass a picture."""
    config = compose("train", ["experiment=emoji_ddpo", "model.gradient_checkpointing=false"])
    sft = config | {"objective": {"name": "sft"}, "rollout": None}
    pair = Step(sft, read_architecture(sft["model"]), None).measure(1, False).flops
    forward, backward = pair["unet_forward"], pair["backward"]

    def unet_of(config: dict) -> int:
        flops = make_plan(config | PLAIN)["flops"]["parts"]
        return sum(flops.values()) - flops["vae"] - flops["text"]

    assert operations_per_step(sft) == pytest.approx(64 * (forward + backward))
    # 5 steps drawn and 2 trained of each of 64 pictures; guided, with a reference and two passes over each:
    assert unet_of(config) == pytest.approx(64 * (5 * forward + 2 * (forward + backward)))
    config["rollout"] |= {"guidance_scale": 2.0, "inner_epochs": 2}
    config["objective"] |= {"kl_weight": 1.0}
    assert unet_of(config) == pytest.approx(2 * 64 * (2.5 * forward + 2 * (2 * forward + backward)))


@pytest.mark.slow
def test_a_rollout_beside_real_rounds(tmp_path):
    """Two rounds of one optimizer step: everything that is computed, and the peak of the whole run."""
    given = [
        "experiment=emoji_ddpo", "trainer.progress=off", "trainer.max_steps=2", "trainer.gradient_accumulation=1",
        "rollout.samples=16", "rollout.images_per_prompt=1", "rollout.guidance_scale=3", "rollout.steps=3",
        "rollout.timestep_fraction=0.7",
    ]  # fmt: skip
    plan = make_plan(compose("plan", given))
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        train(compose("train", [*given, f"output_dir={tmp_path / 'counted'}"]))
    assert plan["flops"]["per_step"] == pytest.approx(counter.get_total_flops() / 2, rel=0.01)
    real = real_peak(compose("train", [*given, f"output_dir={tmp_path / 'measured'}"]))
    assert plan["memory"]["peak_bytes"] == pytest.approx(real, rel=0.1)
    assert {entry["strategy"] for entry in plan["memory"]["by_strategy"]} == {"single", "ddp"}
