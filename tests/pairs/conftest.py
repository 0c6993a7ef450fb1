"""`make-pairs` on the random pipeline, with everything below one folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_pairs import PROMPTS

from mapolab.config.checks import check
from mapolab.config.compose import compose
from mapolab.pairs.command import make_pairs


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    return file


@pytest.fixture
def overrides(tiny_pipeline_folder: Path, prompts_file: Path, tmp_path: Path) -> dict[str, Any]:
    """Two steps a picture, judged by a classifier of drawing styles, which is quick."""
    return {
        "models": tiny_pipeline_folder,
        "prompts": prompts_file,
        "steps": 2,
        "guidance_scale": 2.0,
        "batch_size": 2,
        "target_style": "twemoji",
        "output_root": tmp_path / "outputs",
        "output_dir": tmp_path / "pairs",
    }


@pytest.fixture
def made(overrides: dict[str, Any]) -> Callable[..., Path]:
    """made(recipe, key=value): the folder that the checked command makes."""

    def run(recipe: str, **changes: Any) -> Path:
        given = {key: value for key, value in (overrides | changes).items() if value is not None}
        config = compose("make-pairs", [f"recipe={recipe}", *(f"{key}={value}" for key, value in given.items())])
        check(config, "make-pairs")
        return make_pairs(config)

    return run
