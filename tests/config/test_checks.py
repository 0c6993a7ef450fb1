"""Every mistake that can be known without loading a model is one paragraph, with the fix in it."""

from pathlib import Path
from typing import Any

import pytest

from mapolab.config.checks import check
from mapolab.config.compose import compose
from mapolab.errors import UserError

MISTAKES = {
    "trainer.precision=fp16": "Choose one of 32-true, bf16-mixed, 16-mixed",
    "model=tiny_twin_lora model.lora.rank=0": "model.lora.rank is 0; give a number above 0",
    "model=tiny_twin_lora model.lora.dropout=1": "model.lora.dropout is 1.0; give a number from 0 to 1",
    "model=tiny_twin_lora model.lora.target_modules=[]": "model.lora.target_modules is empty",
    "model=sdxl_lora trainer.precision=32-true": "model.frozen_dtype=bfloat16 needs a mixed precision",
    "model=tiny_twin_lora model.lora.text_encoders=true data.cache=true": "which a cache cannot hold. Set "
    "data.cache=false",
    "model=tiny_twin_lora model.lora.learned_token=fox data.cache=false": "Write it as a name in angle brackets",
    "model=tiny_twin_lora model.lora.learned_token='<fox>' data.cache=false": "needs a word to start from",
    "model=tiny_twin_lora model.lora.learned_token='<fox>' model.lora.token_initial=cat": "which a cache cannot hold",
    "model=tiny_twin_lora model.lora.learned_token='<fox>' model.lora.token_initial=cat data.cache=false "
    "model.reference=ema": "Use model.reference=lora_off",
    "model=tiny_twin_lora model.lora.token_initial=cat": "of a learned token, but there is none",
    "model=tiny_twin_lora model.lora.learned_token='<fox>' model.lora.token_initial=cat data.cache=false "
    "model.lora.token_learning_rate=0": "token_learning_rate is 0.0; give a positive number",
    "model.frozen_dtype=float16": "but model.lora is null",
    "model.trained_dtype=bfloat16": "Set optimizer=adamw_bf16",
    "optimizer=adamw_bf16": "Set model.trained_dtype=bfloat16",
    "optimizer=adamw_bf16 model.trained_dtype=bfloat16": "Set trainer.precision=bf16-mixed",
    "model=tiny_twin_lora model.trained_dtype=bfloat16": "A LoRA is trained in float32",
    "model.reference=lora_off": "needs a LoRA to switch off",
    "model.reference=copy": "Choose one of auto, lora_off, frozen_copy, offloaded_copy",
    "strategy=fsdp strategy.accelerator=cpu": "strategy=fsdp needs GPUs. Use strategy=ddp on CPUs",
    "strategy=deepspeed_zero2 optimizer=adafactor": "Set optimizer=adamw",
    "strategy=fsdp trainer.ema_decay=0.9": "trainer.ema_decay needs every weight on each device",
    "strategy=fsdp model=sdxl_lora trainer.precision=bf16-mixed": "Set model.frozen_dtype=float32",
    "+strategy.options.find_unused_parameters=true": "strategy.strategy=auto names no class",
    "strategy.strategy=horovod": "Choose one of auto, ddp, fsdp, deepspeed",
    "strategy=fsdp strategy.options.state_dict_type=shared": "Choose full or sharded",
    "strategy=fsdp strategy.options.state_dict_type=sharded trainer.checkpoint_in_background=true": "not in the "
    "background. Set trainer.checkpoint_in_background=false",
    "trainer.validate_every=10": "data.validation_split, or data.validation_path",
    "trainer.validate_every=10 data.validation_path=no.parquet": "data.validation_path=no.parquet does not exist",
    "trainer.keep_best=loss": "Set trainer.validate_every",
    "preemption.max_requeues=-1": "preemption.max_requeues is -1",
    "preemption.save_before_limit=-5": "preemption.save_before_limit is -5",
    "strategy.num_nodes=0": "strategy.num_nodes is 0",
    "strategy.num_nodes=many": "strategy.num_nodes is many",
    "diffusion.timestep_range=[3]": "give the first and the last timestep",
    "diffusion.zero_terminal_snr=maybe": "give auto, true or false",
    "diffusion.timestep_weighting=snr": "Choose one of none, min_snr, debiased",
    "diffusion.min_snr_gamma=0": "give a number above 0, such as 5",
    "diffusion=ddim_inversion diffusion.inversion_steps=600": "at most 500. 10 is usual",
    "diffusion.noise=ddim_inversoin": "Did you mean ddim_inversion",
    "model.reference=ema model.reference_ema_decay=1": "between 0 and 1, both excluded",
    "strategy=fsdp model.reference=ema": "follows whole weights, which strategy=fsdp divides",
    "objective=sdpo objective.base.beta=x": "objective.base.beta is 'x'; give a number",
    "objective=sdpo objective.base.name=dmop": "no objective named dmop. Did you mean dmpo",
    "objective=sdpo objective@objective.base=sft": "the name and settings of an objective on pairs",
    "data.prompt_dropout=2": "give a number from 0 to 1",
    "model.pretrained=/no/such.safetensors": "does not exist. Name a .safetensors file",
    "trainer.max_steps=0": "trainer.max_steps is 0; give 1 or more",
    "trainer.gradient_accumulation=0": "give 1 or more",
    "data.flip_probability=1.5": "give a number from 0 to 1",
    "trainer.ema_decay=1": "between 0 and 1, both excluded",
    "data.resolution=20": "multiple of 8",
    "evaluation.height=80000": "give 8192 pixels or fewer",
    "trainer.max_steps=1000000000000000000000": "more than any count can be",
    "trainer.gradient_clip_norm=0": "null to clip nothing",
    "trainer.gradient_clip_norm=nan": "null to clip nothing",
    "name=a/b": "cannot name a folder",
    "name=.hidden": "cannot name a folder",
    "task=tiny_base": "experiment=tiny_base",
    "strategy.devices=0": "strategy.devices is 0",
    "strategy.devices=[]": "strategy.devices is []",
    "objective.name=maop optimizer.lr=1e-3": "Did you mean mapo?",
    "+objective.betta=3": "Did you mean objective.beta?",
    "objective.beta=high": "objective.beta is 'high'; give a number",
    "objective.beta=-1": "beta",
    "optimizer.lr=nan": "optimizer.lr is nan",
    "optimizer._target_=os.system": "Choose one of torch.optim.AdamW",
    "+optimizer.momentum=0.9": "Its settings are lr",
    "model.pretrained=/no/such/folder": "neither a folder nor a name on the hub",
    "model.pretrained=builtin:tiny_twins": "The package has no builtin:tiny_twins",
    "data.path=/no/such.parquet": "data.path=/no/such.parquet does not exist",
    "data.preferred_style=cubism": "twemoji.parquet",
    "data.shuffle_window=0": "data.shuffle_window is 0; give a number of rows, all, or auto",
    "data.shuffle_window=some": "give a number of rows, all, or auto",
    "data.aspect_buckets=true data.cache=false": "Set data.cache=true",
    "data.ties=win": "Choose one of drop, keep",
    "data.micro_conditioning=share": "Did you mean shared? Choose one of own, shared, fixed",
    "data.max_broken_share=2": "give a number from 0 to 1",
    "output_root=/dev/null": "/dev/null is a file",
    "evaluation.prompts=missing.csv": "evaluation.prompts=missing.csv does not exist",
    "trainer.precision=16-mixed strategy.accelerator=cpu": "needs a GPU",
}


@pytest.fixture(scope="session")
def sound(tiny_pipeline_folder: Path, pairs_file: Path) -> list[str]:
    """Overrides of a config with nothing wrong in it."""
    return [f"model.pretrained={tiny_pipeline_folder}", f"data.path={pairs_file}", "data.batch_size=2"]


def failure(config: dict[str, Any], command: str = "train") -> str:
    with pytest.raises(UserError) as raised:
        check(config, command)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_sound_config_passes(sound: list[str]) -> None:
    check(compose("train", sound), "train")


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_names_its_fix(sound: list[str], overrides: str) -> None:
    own = overrides.split()
    # A style names the file of pairs, which the sound path would hide.
    kept = [override for override in sound if not ("preferred_style" in overrides and override.startswith("data.path"))]
    kept = [override for override in kept if not ("model=" in overrides and override.startswith("model.pretrained"))]
    assert MISTAKES[overrides] in failure(compose("train", kept + own))


def test_an_accelerator_without_bfloat16(sound: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a one is not here: torch is made to say so."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: False)
    mixed = compose("train", [*sound, "trainer.precision=bf16-mixed"])
    assert "Set trainer.precision=16-mixed, or 32-true" in failure(mixed)


def test_what_is_compiled_needs_a_compiler(sound: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = compose("train", [*sound, "model.compile=true"])
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv("CC", raising=False)
    assert "but none of no-such-compiler is there" in failure(compiled)
    check(compose("train", sound), "train")


@pytest.mark.parametrize(("text", "sign"), [("a\udcff", "U+DCFF"), ("a\0b", "U+0000"), ("\x1b[0m", "U+001B")])
def test_texts_that_no_file_may_hold_are_named_by_their_key(sound: list[str], text: str, sign: str) -> None:
    config = compose("train", sound)
    config["evaluation"]["negative_prompt"] = text
    assert failure(config).startswith(f"evaluation.negative_prompt holds the character {sign}")
    config = compose("evaluate", ["models=[x]"])
    config["models"] = [{"name": text, "pretrained": "x"}]
    assert failure(config, "evaluate").startswith(f"models.name holds the character {sign}")


def test_export_names_its_formats(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    given = [f"run={tmp_path}", "to=out"]
    check(compose("export", given), "export")
    assert "Did you mean kohya?" in failure(compose("export", [*given, "formats=[koya]"]), "export")
    assert "formats is all" in failure(compose("export", [*given, "formats=all"]), "export")


def test_a_plan_needs_neither_the_data_nor_the_hardware() -> None:
    elsewhere = [
        "data=parquet_pairs",
        "data.path=/not/here",
        "strategy=fsdp",
        "strategy.devices=8",
        "optimizer=adamw_8bit",
    ]
    check(compose("plan", [*elsewhere, "model=sdxl", "trainer.precision=16-mixed"]), "plan")
    assert "efficiency is 2.0" in failure(compose("plan", ["efficiency=2"]), "plan")
    assert "rows is 0" in failure(compose("plan", ["rows=0"]), "plan")


def test_prepare_needs_a_cache_to_make(sound: list[str]) -> None:
    check(compose("prepare", [*sound, "part=2", "parts=3"]), "prepare")
    assert "part is 3 of 3" in failure(compose("prepare", [*sound, "part=3", "parts=3"]), "prepare")
    assert "Add data.cache=true" in failure(compose("prepare", [*sound, "data.cache=false"]), "prepare")


def test_a_folder_that_is_no_model_is_refused(sound: list[str], tmp_path: Path) -> None:
    assert "has no model_index.json" in failure(compose("train", [*sound, f"model.pretrained={tmp_path}"]))


def test_compare_needs_names_and_scorers_are_a_list() -> None:
    assert "runs is []" in failure(compose("compare", ["runs=[]"]), "compare")
    check(compose("compare", ["runs=[a,b]"]), "compare")
    check(compose("compare", ["runs=outputs/*"]), "compare")
    assert "such as scorers=[style]" in failure(compose("train", ["evaluation.scorers=style"]), "train")
