"""What the package ships for the tiny twin: it opens in diffusers, draws what captions say, and stays small."""

from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline

from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.prompt_table import read_table
from mapolab.files import write_text
from mapolab.paths import resolve
from mapolab.reading import read_rows


def test_the_base_draws_held_out_captions_and_not_in_the_preferred_style(tmp_path: Path):
    prompts = [row.prompt for row in read_table("builtin:emoji/prompts/test.csv")[::6]]
    write_text(tmp_path / "prompts.txt", "\n".join(prompts))
    (folder,) = evaluate(
        {
            "models": ["builtin:tiny_twin"],
            "output_root": str(tmp_path),
            "prompts": str(tmp_path / "prompts.txt"),
            "scorers": ["style", "concept", "background"],
            "target_style": "fluent-emoji-high-contrast",
            "steps": 20,
            "guidance_scale": 3.0,
            "seed": 7,
            "batch_size": 16,
        }
    )
    rows = read_rows(folder / "scores.csv")
    means = {name: sum(float(row[name]) for row in rows) / 16 for name in ("style", "concept", "background")}
    assert means["concept"] >= 0.8 and means["background"] >= 0.8 and means["style"] <= 0.1


def test_diffusers_opens_it_as_it_is():
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        resolve("builtin:tiny_twin"), torch_dtype=torch.float32, add_watermarker=False
    )
    assert sum(parameter.numel() for parameter in pipeline.unet.parameters()) > 7e6


def test_weights_pairs_and_judges_stay_below_30_megabytes():
    parts = ("builtin:tiny_twin", "builtin:emoji/pairs", "builtin:emoji/scorers")
    files = [file for part in parts for file in Path(resolve(part)).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 30e6
