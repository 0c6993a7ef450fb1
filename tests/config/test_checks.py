"""Every mistake that can be known without loading a model is one paragraph, with the fix in it."""

from pathlib import Path
from typing import Any

import pytest

from mapolab.config.checks import check
from mapolab.config.compose import compose
from mapolab.errors import UserError

MISTAKES = {
    "trainer.precision=fp16": "Choose one of 32-true, bf16-mixed, 16-mixed",
    "trainer.max_steps=0": "trainer.max_steps is 0; give 1 or more",
    "trainer.gradient_accumulation=0": "give 1 or more",
    "data.flip_probability=1.5": "give a number from 0 to 1",
    "trainer.ema_decay=1": "between 0 and 1, both excluded",
    "data.resolution=20": "multiple of 8",
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
    assert MISTAKES[overrides] in failure(compose("train", kept + own))


def test_prepare_needs_a_cache_to_make(sound: list[str]) -> None:
    check(compose("prepare", [*sound, "part=2", "parts=3"]), "prepare")
    assert "part is 3 of 3" in failure(compose("prepare", [*sound, "part=3", "parts=3"]), "prepare")
    assert "Add data.cache=true" in failure(compose("prepare", [*sound, "data.cache=false"]), "prepare")


def test_a_folder_that_is_no_model_is_refused(sound: list[str], tmp_path: Path) -> None:
    assert "has no model_index.json" in failure(compose("train", [*sound, f"model.pretrained={tmp_path}"]))


def test_evaluate_needs_a_run_folder_and_compare_needs_names(tmp_path: Path) -> None:
    assert "not a run folder" in failure(compose("evaluate", [f"run={tmp_path}"]), "evaluate")
    (tmp_path / "manifest.json").write_text("{}")
    check(compose("evaluate", [f"run={tmp_path}"]), "evaluate")
    assert "runs is []" in failure(compose("compare", ["runs=[]"]), "compare")
    check(compose("compare", ["runs=[a,b]"]), "compare")
    check(compose("compare", ["runs=outputs/*"]), "compare")
