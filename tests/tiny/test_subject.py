"""The shipped subject is what the recipe makes, and its pairs hold it against the base's own drawings."""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image

from mapolab.config.checks import check
from mapolab.config.compose import compose
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.prompt_table import read_table
from mapolab.paths import resolve
from mapolab.reading import read_rows
from mapolab.tiny.concepts import CONCEPTS
from mapolab.tiny.subject import (
    ASKED_ON,
    CLASS_WORD,
    DRAWING,
    SHOWN_ON,
    TOKEN,
    draw,
    subject_picture,
    write_subject,
    write_subject_prompts,
)
from mapolab.training.run import train

PAIRS = "builtin:emoji/pairs/subject.parquet"


def test_the_experiment_trains_and_its_run_is_judged_with_the_token(tmp_path):
    overrides = ["trainer.max_steps=1", "data.batch_size=2", "evaluation.steps=2", "trainer.progress=off"]
    config = compose("train", ["experiment=emoji_personalization", f"output_root={tmp_path}", *overrides])
    check(config, "train")
    run = train(config)
    given = {"limit": 1, "images_per_prompt": 1, "base": False, "output_root": str(tmp_path)}
    (folder,) = evaluate({"models": [str(run)], **given})
    (row,) = read_rows(folder / "scores.csv")
    assert TOKEN in row["prompt"] and -1 <= float(row["subject"]) <= 1 and row["background"] in ("0", "1")


def pixels(data: bytes | Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).convert("RGB")).astype(int)


def test_pictures_and_prompts_are_what_the_recipe_writes(tmp_path):
    write_subject(tmp_path / "subject")
    write_subject_prompts(tmp_path)
    shipped = Path(resolve("builtin:emoji/subject"))
    for index in range(6):
        assert np.array_equal(pixels(tmp_path / "subject" / f"{index}.png"), pixels(shipped / f"{index}.png"))
    assert (tmp_path / "subject" / "captions.csv").read_bytes() == (shipped / "captions.csv").read_bytes()
    assert (tmp_path / "subject.csv").read_bytes() == Path(resolve("builtin:emoji/prompts/subject.csv")).read_bytes()


def test_nobody_saw_the_drawing_and_no_prompt_shows_a_colour_of_the_pairs():
    assert DRAWING not in CONCEPTS and not set(SHOWN_ON) & set(ASKED_ON)
    prompts = [row.prompt for row in read_table("builtin:emoji/prompts/subject.csv")]
    assert len(prompts) == 8 and all(TOKEN in prompt for prompt in prompts)
    assert not any(colour in prompt for prompt in prompts for colour in SHOWN_ON)
    with open(Path(resolve("builtin:emoji/subject")) / "captions.csv", newline="") as file:
        assert all(any(colour in line["caption"] for colour in SHOWN_ON) for line in csv.DictReader(file))


def test_chosen_is_the_subject_and_rejected_the_base_drawing_its_kind():
    rows = parquet.read_table(resolve(PAIRS)).to_pylist()
    assert len(rows) == 24 and {row["label_0"] for row in rows} == {0.0, 1.0}
    for index, row in enumerate(rows):
        won = 0 if row["label_0"] else 1
        assert (row[f"model_{won}"], row[f"model_{1 - won}"]) == ("subject", "base")
        shown = subject_picture(0, index // 4)
        assert row["caption"] == shown.caption()
        assert np.abs(pixels(row[f"jpg_{won}"]) - shown.picture).mean() < 4  # JPEG
    # The first two again; another machine's last bits may differ.
    prompts = [subject_picture(0, 0).caption(CLASS_WORD)] * 2
    for row, again in zip(rows, draw(Path(resolve("builtin:tiny_twin")), prompts, 0), strict=False):
        lost = row["jpg_1"] if row["label_0"] else row["jpg_0"]
        assert np.abs(pixels(lost) - again).mean() < 8
