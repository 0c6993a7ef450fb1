"""The MaPO paper's tasks in miniature: shipped is what the recipe writes, and every task runs to its scores."""

import io

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from mapolab.config.checks import check
from mapolab.config.compose import compose
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.scorers.pixels import appeal, as_tensor
from mapolab.paths import resolve
from mapolab.reading import read_rows
from mapolab.tiny.concepts import CONCEPTS, caption, concept_of
from mapolab.tiny.tasks import DISHES, FOODS, TASKS, TEST_FOODS, UNSEEN_COLOURS, VALIDATION_FOOD
from mapolab.training.run import train


def test_a_caption_tells_its_concept() -> None:
    """Which is the cluster of the studies' statistics."""
    assert concept_of(caption("soft-ice-cream", "pink", 1)) == "soft-ice-cream"
    assert concept_of("scissors on a red background") == "scissors"
    assert concept_of("a <zib> on a red background") is None
    for name in ("test", "safety", "culture"):
        rows = read_rows(resolve(f"builtin:emoji/prompts/{name}.csv"))
        assert {CONCEPTS[concept_of(row["prompt"])] for row in rows} == {
            CONCEPTS.get(row["concept"], row["concept"]) for row in rows
        }


@pytest.mark.parametrize("task", TASKS)
def test_shipped_pairs_are_what_the_recipe_writes(task):
    rows = parquet.read_table(resolve(f"builtin:emoji/pairs/{task}.parquet")).to_pylist()
    made = TASKS[task](0, 5)
    same = ("caption", "label_0", "model_0", "model_1", "image_0_uid")
    assert {key: made[key] for key in same} == {key: rows[5][key] for key in same}
    for key in ("jpg_0", "jpg_1"):
        ours, theirs = (
            np.asarray(Image.open(io.BytesIO(row[key])).convert("RGB")).astype(int) for row in (made, rows[5])
        )
        assert abs(ours - theirs).max() <= 8  # another build of libwebp may round otherwise


def test_annotators_of_the_general_pairs_prefer_appeal_and_err():
    rows = parquet.read_table(resolve("builtin:emoji/pairs/general.parquet")).to_pylist()
    won = []
    for row in rows[:120]:
        pictures = [Image.open(io.BytesIO(row[f"jpg_{side}"])) for side in range(2)]
        first, second = appeal(as_tensor(pictures)).tolist()
        won.append((first > second) == (row["label_0"] == 1))
    assert 0.65 < np.mean(won) < 0.95


def test_nothing_of_the_tests_is_in_the_pairs():
    culture = parquet.read_table(resolve("builtin:emoji/pairs/culture.parquet"), columns=["caption"]).to_pylist()
    tested = [CONCEPTS[name] for name in (*TEST_FOODS, VALIDATION_FOOD)]
    assert not any(word in row["caption"] for row in culture for word in tested)
    assert not set(FOODS) & {*TEST_FOODS, VALIDATION_FOOD} and not set(DISHES) & set(CONCEPTS)
    safety = parquet.read_table(resolve("builtin:emoji/pairs/safety.parquet"), columns=["caption"]).to_pylist()
    assert not any(colour in row["caption"] for row in safety for colour in UNSEEN_COLOURS)


@pytest.mark.parametrize(
    ("experiment", "columns"),
    [
        ("emoji_general", {"appeal", "concept", "background"}),
        ("emoji_safety", {"avoids", "concept", "background", "category"}),
        ("emoji_culture", {"subject", "concept", "background", "category"}),
    ],
)
def test_a_task_trains_and_is_judged(tmp_path, experiment, columns):
    overrides = [f"experiment={experiment}", f"output_root={tmp_path}", "trainer.max_steps=1", "data.batch_size=2"]
    config = compose(
        "train", [*overrides, "trainer.progress=off", "evaluation.steps=2", "evaluation.images_per_prompt=1"]
    )
    check(config, "train")
    (folder,) = evaluate({"models": [str(train(config))], "limit": 2, "base": False, "output_root": str(tmp_path)})
    rows = read_rows(folder / "scores.csv")
    assert len(rows) == 2 and columns <= set(rows[0])
