"""Each recipe by the command's own function, on a random pipeline."""

import csv
import hashlib
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from made_pairs import PROMPTS, content, origins, rows_in
from PIL import Image
from tiny_pickscore import save_pickscore

from mapolab.data.sources.open import open_source
from mapolab.errors import UserError
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.scorers.registry import build_scorers
from mapolab.files import read_json
from mapolab.reading import read_rows
from mapolab.training.run import train


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_prefixes_draw_one_prompt_in_two_wordings_from_one_noise(made, train_config) -> None:
    folder = made("prefixes", chosen_prefix="'oil: '", images_per_prompt=2)
    rows, table = rows_in(folder), origins(folder)
    assert [row["caption"] for row in rows] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert {row["num_example_per_prompt"] for row in rows} == {2}
    for row in table:
        assert row["chosen_prompt"] == f"oil: {row['caption']}" and row["rejected_prompt"] == row["caption"]
        assert row["chosen_seed"] == row["rejected_seed"] == str(int(row["row"]) % 2)
    uids = [row[f"image_{side}_uid"] for row in rows for side in range(2)]
    assert len({*uids}) == len(uids) == 20
    # The preferred side alternates, and is where the table says that it is.
    assert [row["label_0"] for row in rows] == [1.0, 0.0] * 5
    for row, origin in zip(rows, table, strict=True):
        assert row[f"image_{origin['chosen_side']}_uid"] == origin["chosen_uid"] == row["best_image_uid"]
        with Image.open(io.BytesIO(row["jpg_0"])) as picture:
            assert picture.size == (16, 16) and not picture.text
    # A training run takes the folder as it is.
    train_config["data"]["path"] = str(folder)
    train_config["trainer"]["max_steps"] = 2
    assert (train(train_config) / "unet").is_dir()


def test_two_models_draw_from_one_noise_and_the_first_is_preferred(made, train_config, tiny_pipeline_folder) -> None:
    train_config["trainer"]["max_steps"] = 1
    train_config["optimizer"]["lr"] = 0.1
    run = train(train_config)
    drawing = {"height": 16, "width": 16, "images_per_prompt": 1, "negative_prompt": "''", "scheduler": "euler"}
    folder = made("models", models=f"[{run},{tiny_pipeline_folder}]", **drawing)
    for row in origins(folder):
        assert row["chosen_model"].startswith("mapo") and row["rejected_model"] == tiny_pipeline_folder.name
        assert row["chosen_seed"] == row["rejected_seed"] and row["chosen_uid"] != row["rejected_uid"]
    same = {"name": "same", "pretrained": tiny_pipeline_folder}
    twice = f"[{tiny_pipeline_folder},{{{','.join(f'{key}: {value}' for key, value in same.items())}}}]"
    with pytest.raises(UserError, match="hold the same weights"):
        made("models", models=twice, output_dir=folder.with_name("other"))


def test_the_best_generation_stands_against_the_worst(made, tmp_path, tiny_pipeline_folder, prompts_file) -> None:
    folder = made("ranked", images_per_prompt=3, ranked_by="[style]", weights="gap")
    (evaluation,) = evaluate(
        {
            **{"models": [str(tiny_pipeline_folder)], "prompts": str(prompts_file), "output_root": str(tmp_path / "o")},
            **{"steps": 2, "guidance_scale": 2.0, "batch_size": 2, "seed": 0, "images_per_prompt": 3},
            **{"scorers": ["style"], "target_style": "twemoji", "store": str(tmp_path / "outputs" / ".store")},
        }
    )
    scores = read_rows(evaluation / "scores.csv")
    gaps = []
    for number, row in enumerate(origins(folder)):
        three = [float(score["style"]) for score in scores[3 * number : 3 * number + 3]]
        assert float(row["style_chosen"]) == pytest.approx(max(three), rel=1e-8)
        assert float(row["style_rejected"]) == pytest.approx(min(three), rel=1e-8)
        gaps.append(max(three) - min(three))
    assert [row["weight"] for row in rows_in(folder)] == pytest.approx([gap * 5 / sum(gaps) for gap in gaps])
    manifest = read_json(folder / "manifest.json")
    assert manifest["counts"]["pairs"] == 5 and manifest["counts"]["pictures"] == 15
    mean = sum(float(score["style"]) for score in scores) / 15
    assert manifest["means"]["style"]["all"] == pytest.approx(mean, rel=1e-8)


def test_all_pairs_of_several_scorers_have_ties_where_the_majority_is_split(made) -> None:
    folder = made("ranked", images_per_prompt=3, ranked_by="[style,pixel_distance]", pairing="all")
    rows, table = rows_in(folder), origins(folder)
    assert len(rows) == 15 and {row["label_0"] + row["label_1"] for row in rows} == {1.0}
    ties = 0
    for row, origin in zip(rows, table, strict=True):
        style = float(origin["style_chosen"]) - float(origin["style_rejected"])
        near = float(origin["pixel_distance_rejected"]) - float(origin["pixel_distance_chosen"])
        if row["label_0"] == 0.5:
            ties += 1
            assert style * near < 0 and row["best_image_uid"] == "tie" and not row["are_different"]
        else:
            assert style > 0 and near > 0
    assert 0 < ties < 15 and read_json(folder / "manifest.json")["counts"]["ties"] == ties


@pytest.fixture
def targets_folder(make_image, tmp_path) -> Path:
    folder = tmp_path / "targets"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(make_image(number, (16, 16)))
    with open(folder / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows([("name", "caption"), *((f"{number}.png", f"<x> {number}") for number in range(3))])
    return folder


def test_targets_stand_against_what_the_model_draws(made, targets_folder, tmp_path) -> None:
    given = {"targets": targets_folder, "prompts": None, "images_per_prompt": 2}
    folder = made("targets", rejected_words="[['<x>',fox]]", **given)
    rows, table = rows_in(folder), origins(folder)
    assert len(rows) == 6
    for row, origin in zip(rows, table, strict=True):
        assert row[f"jpg_{origin['chosen_side']}"] == (targets_folder / f"{origin['position']}.png").read_bytes()
        assert (
            row["caption"] == f"<x> {origin['position']}" and origin["rejected_prompt"] == f"fox {origin['position']}"
        )
    with pytest.raises(UserError, match=r"replaces '<y>', which no caption holds"):
        made("targets", rejected_words="[['<y>',fox]]", output_dir=tmp_path / "nothing", **given)
    other = made("targets", rejected_prompt="'a fox'", output_dir=tmp_path / "other", **given)
    assert {row["rejected_prompt"] for row in origins(other)} == {"a fox"}


def test_a_broken_or_unnamed_target_is_told(made, targets_folder) -> None:
    given = {"targets": targets_folder, "prompts": None}
    whole = (targets_folder / "1.png").read_bytes()
    (targets_folder / "1.png").write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"1\.png is broken \(.*\)\. Replace it, or remove it"):
        made("targets", **given)
    (targets_folder / "1.png").unlink()
    with pytest.raises(UserError, match=r"a caption for 1\.png, but no such picture"):
        made("targets", **given)
    (targets_folder / "1.png").write_bytes(whole)
    (targets_folder / "new.png").write_bytes(whole)
    with pytest.raises(UserError, match=r"1 of the 4 pictures in .* have no caption, such as new\.png"):
        made("targets", **given)


@pytest.fixture
def votes_file(tmp_path, tiny_pipeline_folder, prompts_file) -> Path:
    """As wall.js exports them: two pictures of each prompt, here of one model by two seeds."""
    (evaluation,) = evaluate(
        {
            **{"models": [str(tiny_pipeline_folder)], "prompts": str(prompts_file), "steps": 2, "seed": 0},
            **{"output_root": str(tmp_path / "outputs"), "images_per_prompt": 2, "batch_size": 2, "scorers": []},
        }
    )
    run, lines = evaluation.parent.parent, []
    images = sorted((evaluation / "images").iterdir())
    for number, label in enumerate((1, 0, 0.5)):
        two = images[2 * number : 2 * number + 2]
        uids = [hashlib.sha256(file.read_bytes()).hexdigest()[:32] for file in two]
        sides = [
            {f"image_{side}_uid": uid, f"image_{side}_url": f"{run.name}/{file.relative_to(run).as_posix()}",
             f"jpg_{side}": None, f"model_{side}": f"m{side}", f"label_{side}": abs(side - label)}
            for side, (uid, file) in enumerate(zip(uids, two, strict=True))
        ]  # fmt: skip
        about = {"caption": PROMPTS[number], "label_0": label, "created_at": "2026-01-01T00:00:00.000Z", "user_id": 0}
        lines.append(json.dumps(sides[0] | sides[1] | about))
    file = tmp_path / "votes.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_votes_become_pairs_with_the_pictures_that_were_seen(made, votes_file, tmp_path) -> None:
    given = {"votes": votes_file, "models": None, "prompts": None}
    folder = made("votes", **given)
    rows, voted = rows_in(folder), [json.loads(line) for line in votes_file.read_text().splitlines()]
    assert [row["label_0"] for row in rows] == [1.0, 0.0, 0.5]
    for row, vote in zip(rows, voted, strict=True):
        for side in range(2):
            place = tmp_path / "outputs" / "models" / vote[f"image_{side}_url"]
            assert row[f"image_{side}_uid"] == vote[f"image_{side}_uid"]
            assert (pixels(row[f"jpg_{side}"]) == pixels(place.read_bytes())).all()
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "outputs" / "models", moved)
    with pytest.raises(UserError, match=r"votes\.jsonl, line 1: the picture .* Name the folder of the evaluated model"):
        made("votes", **given, output_dir=tmp_path / "other")
    again = made("votes", **given | {"models": f"'{moved}/*'"}, output_dir=tmp_path / "other")
    assert content(again) == content(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prompt,vote\na fox,1\n", "line 1 is no JSON object"),
        ('{"caption": "a fox"}\n', "line 1 lacks image_0_uid"),
        ("", "holds no vote"),
        ("[" * 100_000, "line 1 is no JSON object"),
    ],
)
def test_a_file_of_another_form_is_no_file_of_votes(made, tmp_path, text, reason) -> None:
    (tmp_path / "votes.jsonl").write_text(text)
    with pytest.raises(UserError, match=reason):
        made("votes", votes=tmp_path / "votes.jsonl", models=None, prompts=None)


def test_smoothing_gives_the_pairs_of_a_data_set_soft_labels(made, pairs_file, make_pairs, tmp_path) -> None:
    given = {"models": None, "prompts": None, "ranked_by": "[style]", "labels": "soft", "label_scale": 3.0}
    folder = made("smoothed", data_path=pairs_file, **given)
    before, after = rows_in(pairs_file.parent), rows_in(folder)
    (scorer,) = build_scorers(["style"], "twemoji")
    assert len(after) == len(before) == 11
    for old, new in zip(before, after, strict=True):
        scores = [float(scorer([Image.open(io.BytesIO(old[name]))], [""])) for name in ("jpg_0", "jpg_1")]
        assert new["label_0"] == pytest.approx(1 / (1 + math.exp(-3.0 * (scores[0] - scores[1]))), abs=1e-6)
        assert new["label_0"] + new["label_1"] == 1
        for name in ("caption", "jpg_0", "jpg_1", "image_0_uid", "image_1_uid"):
            assert new[name] == old[name]
    # A broken picture costs its row, and is counted.
    rows = make_pairs(10)
    rows[3]["jpg_1"] = rows[3]["jpg_1"][:50]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "broken.parquet")
    broken = made("smoothed", data_path=tmp_path / "broken.parquet", output_dir=tmp_path / "other", **given)
    assert read_json(broken / "manifest.json")["counts"]["left_out"] == {"broken image": 1}
    assert len(rows_in(broken)) == 10


def test_smoothing_refuses_an_id_of_two_pictures(made, make_pairs, tmp_path) -> None:
    """The scores are kept by id: the second picture would have those of the first."""
    rows = make_pairs(10)
    rows[4]["image_1_uid"] = rows[8]["image_1_uid"]  # under one caption
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "ambiguous.parquet", row_group_size=3)
    given = {"models": None, "prompts": None, "ranked_by": "[style]", "labels": "soft", "label_scale": 3.0}
    with pytest.raises(UserError, match=r"image 1 in ambiguous.parquet, row 4 also names another image, in .* row 8"):
        made("smoothed", data_path=tmp_path / "ambiguous.parquet", **given)


def test_smoothing_by_pickscore_is_smpos(made, pairs_file, tmp_path) -> None:
    weights = save_pickscore(tmp_path)
    by = f"[{{_target_: pickscore, weights: {weights}, processor: {weights}}}]"
    given = {"models": None, "prompts": None, "data_path": pairs_file, "ranked_by": by, "labels": "soft"}
    folder = made("smoothed", **given)
    for row, origin in zip(rows_in(folder), origins(folder), strict=True):
        scores = {origin["chosen_side"]: origin["pickscore_chosen"]}
        scores[str(1 - int(origin["chosen_side"]))] = origin["pickscore_rejected"]
        gap = (float(scores["0"]) - float(scores["1"])) / 100  # of cosines
        assert row["label_0"] == pytest.approx(1 / (1 + math.exp(-gap / 0.16658044606447)), abs=1e-8)
        assert (row["label_0"] > 0.5) == (gap > 0)  # whom people preferred is not asked
    # Labels that an earlier version wrote, with PickScore's own softmax, are not taken for these.
    manifest = read_json(folder / "manifest.json")
    assert manifest["settings"]["label_scale"] == pytest.approx(0.0600310, abs=1e-7)
    manifest["settings"]["label_scale"] = 1.0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"made in another way \(label_scale: 1.0 -> 0.06003"):
        made("smoothed", **given)
    made("smoothed", **given, label_scale=1.0)


def test_the_folder_is_a_data_set_that_notices_a_missing_file(made, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("mapolab.pairs.writing.ROWS_PER_PART", 2)
    folder = made("prefixes", chosen_prefix="'oil: '")
    source = open_source(str(folder), None, None, tmp_path / "cache", 0)
    assert source.block_sizes == (2, 2, 1) and not source.broken_files
    (folder / "train-00001-of-00003.parquet").unlink()
    source = open_source(str(folder), "train", None, tmp_path / "cache", 0)
    assert [file.name for file in source.broken_files] == ["train-00001-of-00003.parquet"]
    made("prefixes", chosen_prefix="'oil: '")  # the same command puts it back
    assert not open_source(str(folder), None, None, tmp_path / "cache", 0).broken_files
