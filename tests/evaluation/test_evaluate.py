"""Generation and scoring through the real command's function, on a random pipeline and on real artwork."""

import csv
from pathlib import Path

import pytest
import torch

from mapolab.errors import UserError
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.prompts import read_prompts
from mapolab.evaluation.scorer import SCORERS, build_scorers
from mapolab.files import read_json
from mapolab.tiny.autoencoder import to_unit_range
from mapolab.tiny.concepts import CONCEPTS, STYLES, TEST_CONCEPTS, caption, held_out_captions
from mapolab.tiny.pictures import composite, generator_for, load_artwork
from mapolab.training.run import train

NO_OVERRIDES = dict.fromkeys(("prompts", "steps", "guidance_scale", "seed", "batch_size"))


@pytest.fixture
def finished_run(train_config, tmp_path) -> Path:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\ntwo boats\nrain\n", encoding="utf-8")
    train_config["evaluation"] |= {
        "prompts": str(prompts),
        "steps": 2,
        "guidance_scale": 2.0,
        "seed": 5,
        "batch_size": 2,
        "height": 16,
        "width": 16,
        "target_style": None,
        "scorers": [],
    }
    train_config["data"]["allow_overlap"] = True  # the prompts are captions of the pairs
    train_config["trainer"]["max_steps"] = 2
    train_config["schedule"]["warmup_steps"] = 0
    train_config["optimizer"]["lr"] = 0.1
    return train(train_config)


def pictures(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "images").iterdir())]


def test_an_interrupted_evaluation_continues_with_the_same_pictures(finished_run):
    folder = evaluate({"run": str(finished_run), **NO_OVERRIDES})
    whole = pictures(folder)
    assert len(whole) == 3
    # What a kill leaves behind: some pictures, no scores.
    (folder / "scores.csv").unlink()
    for name in ("00001.png", "00002.png"):
        (folder / "images" / name).unlink()
    assert evaluate({"run": str(finished_run), **NO_OVERRIDES}) == folder
    assert pictures(folder) == whole


def test_the_base_is_evaluated_beside_the_run_and_other_settings_elsewhere(finished_run):
    folder = evaluate({"run": str(finished_run), **NO_OVERRIDES})
    base = finished_run / read_json(folder / "links.json")["base"]
    assert read_json(base / "manifest.json")["label"] == "base"
    assert pictures(base / "evaluation" / folder.name) != pictures(folder)
    assert evaluate({"run": str(finished_run), **NO_OVERRIDES, "guidance_scale": 1.0}) != folder


def test_an_unfinished_run_is_refused(finished_run):
    manifest = read_json(finished_run / "manifest.json") | {"status": "interrupted"}
    from mapolab.files import write_json

    write_json(finished_run / "manifest.json", manifest)
    with pytest.raises(UserError, match="interrupted, not finished"):
        evaluate({"run": str(finished_run), **NO_OVERRIDES})


@pytest.fixture(scope="module")
def drawn():
    """Real pictures of every generator concept in every style: (prompts, styles, pictures)."""
    prompts, styles, rows = [], [], []
    colours = list(dict.fromkeys(colour for _, _, colour in held_out_captions(TEST_CONCEPTS)))
    for number, concept in enumerate(CONCEPTS):
        for style in STYLES:
            colour = colours[(number + STYLES.index(style)) % len(colours)]
            prompts.append(caption(concept, colour, number % 2))
            styles.append(style)
            random = generator_for(77, number, STYLES.index(style))
            rows.append(torch.from_numpy(composite(load_artwork().drawing(concept, style), colour, random).copy()))
    return prompts, styles, to_unit_range(torch.stack(rows))


@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_the_judges_know_real_pictures(drawn, style):
    prompts, styles, images = drawn
    scores = {scorer.name: scorer(images, prompts) for scorer in build_scorers(list(SCORERS), style)}
    is_target = torch.tensor([name == style for name in styles])
    assert ((scores["style"] > 0.5) == is_target).float().mean() >= 0.95
    assert scores["concept"].mean() >= 0.95
    assert scores["background"].mean() >= 0.99
    assert scores["pixel_distance"][is_target].median() < scores["pixel_distance"][~is_target].median()


def test_prompts_come_from_csv_and_text_and_mistakes_are_named(tmp_path):
    assert len(read_prompts("builtin:emoji/prompts/test.csv")) == 96
    table, text, binary = (tmp_path / name for name in ("p.csv", "p.txt", "b.txt"))
    table.write_text("id,prompt\n1,a fox\n", encoding="utf-8")
    text.write_text("\n\n", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    assert read_prompts(str(table)) == ["a fox"]
    for path, said in ((text, "holds no prompt"), (binary, "not UTF-8"), (tmp_path / "none.txt", "no such file")):
        with pytest.raises(UserError, match=said):
            read_prompts(str(path))


def test_held_out_captions_share_nothing_with_the_pairs():
    import pyarrow.parquet as parquet

    from mapolab.paths import resolve

    with open(resolve("builtin:emoji/prompts/test.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for pairs in resolve("builtin:emoji/pairs").iterdir():
        captions = parquet.read_table(pairs, columns=["caption"]).column("caption").to_pylist()
        assert not {row["prompt"] for row in rows} & set(captions)
        assert not any(row["concept"] in text for row in rows for text in captions)
