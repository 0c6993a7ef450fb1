"""Whole runs on streamed, broken and unusual data."""

import copy
import csv
import importlib.util
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file

from mapolab.data.sources import remote
from mapolab.errors import RunError, UserError
from mapolab.models.encoder import Encoder
from mapolab.training.prepare import prepare_cache
from mapolab.training.run import train

spec = importlib.util.spec_from_file_location("servers", Path(__file__).parents[1] / "data" / "servers.py")
servers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(servers)


def changed(config: dict, **data) -> dict:
    config = copy.deepcopy(config)
    config["data"] |= data
    return config


def written(path: Path, rows: list[dict], row_group_size: int = 5) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return str(path)


def manifest(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text())


def metrics(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").open()))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "unet" / "diffusion_pytorch_model.safetensors")


def equal(run: Path, other: Path) -> bool:
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(run).items())


def test_streaming_in_windows_sees_the_same_with_any_number_of_workers(train_config, make_pairs, tmp_path):
    path = written(tmp_path / "pairs.parquet", make_pairs(40))
    config = changed(train_config, path=path, cache=False, shuffle_window=8, flip_probability=0.5)
    runs = []
    for workers in (0, 2):
        config["output_dir"] = str(tmp_path / str(workers))
        runs.append(train(changed(config, num_workers=workers)))
    assert equal(*runs)


@pytest.mark.parametrize("cache", [False, True])
def test_broken_rows_are_listed_and_replaced(train_config, make_pairs, tmp_path, cache):
    rows = make_pairs(12)[:12]
    rows[2]["jpg_0"] = rows[2]["jpg_0"][:80]
    rows[5]["caption"] = None
    rows[8]["label_0"] = float("nan")
    path = written(tmp_path / "pairs.parquet", rows)
    run = train(changed(train_config, path=path, cache=cache, max_broken_share=0.5, num_workers=1))
    with (run / "broken_rows.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert [(entry["row"], entry["replacement"]) for entry in listed] == [("2", "3"), ("5", "6"), ("8", "9")]
    assert listed[0]["name"] == "pairs.parquet, row 2"
    assert "cut off" in listed[0]["reason"]
    assert len(metrics(run)) == 6
    assert manifest(run)["status"] == "finished"


def test_too_many_broken_rows_end_a_run_that_can_then_go_on(train_config, make_pairs, tmp_path):
    rows = make_pairs(12)[:12]
    rows[2]["jpg_0"] = b"no image"
    path = written(tmp_path / "pairs.parquet", rows)
    config = changed(train_config, path=path, cache=False) | {"output_dir": str(tmp_path / "run")}
    with pytest.raises(
        RunError, match=r"1 of the \d+ rows seen so far are broken, see .*broken_rows.csv; .* allows 1.0%"
    ):
        train(config)
    assert manifest(tmp_path / "run")["status"] == "failed"
    assert equal(train(changed(config, max_broken_share=0.1)), train(changed(config, max_broken_share=0.1)))


def test_missing_files_count_with_their_rows(train_config, make_pairs, tmp_path):
    for number in (0, 1, 2):
        written(tmp_path / "data" / f"train-{number:05d}-of-00004.parquet", make_pairs(10))
    config = changed(train_config, path=str(tmp_path / "data"), split="train")
    with pytest.raises(RunError, match=r"files with about 11 of 44 rows are broken \(train-00003-of-00004.parquet"):
        train(config)
    run = train(changed(config, max_broken_share=0.3))
    assert manifest(run)["broken_files"][0]["reason"] == "the file is missing"


def test_a_dead_remote_ends_a_run_that_can_then_go_on(train_config, make_pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WAITS", (0.01,))
    written(tmp_path / "www" / "pairs.parquet", make_pairs(40))
    with servers.running(tmp_path / "www") as server:
        config = changed(
            train_config, path=f"{server.url}/pairs.parquet", cache=False, shuffle_window=8, num_workers=1,
            download_cache_gb=0,
        )  # fmt: skip
        server.faults = [""] * 1000  # which do nothing but count
        undisturbed = train(config | {"output_dir": str(tmp_path / "undisturbed")})
        requests = 1000 - len(server.faults)
        config["output_dir"] = str(tmp_path / "disturbed")
        server.faults = [""] * (requests * 2 // 3) + ["dead"]
        with pytest.raises(RunError, match="does not answer"):
            train(config)
        server.faults = []
        assert equal(train(config), undisturbed)


def test_training_prepares_what_is_missing_and_then_loads_no_encoder(train_config, monkeypatch, capfd):
    config = train_config | {"part": 0, "parts": 1, "verify": False}
    prepare_cache(config)
    assert "The cache is complete" in capfd.readouterr().out
    monkeypatch.setattr(Encoder, "load", lambda sdxl: pytest.fail("the encoders were loaded"))
    train(train_config)
    prepare_cache(config)
    assert "Ready: " in capfd.readouterr().out


def test_a_cache_of_other_labels_is_refused(train_config, make_pairs, tmp_path):
    """Exchanged labels leave a parquet file's size and footer as they are, and so its fingerprint."""
    pairs, file = make_pairs(10), tmp_path / "pairs.parquet"
    config = changed(train_config, path=written(file, pairs))
    train(config)
    before = file.read_bytes()
    for pair in pairs:
        pair["label_0"] = 1 - pair["label_0"]
    written(file, pairs)
    assert len(file.read_bytes()) == len(before) and file.read_bytes()[-500:] == before[-500:]
    other = config | {"output_dir": str(tmp_path / "other")}
    with pytest.raises(UserError, match=r"was made of other labels than the data has now.* Remove that folder"):
        train(other)
    shutil.rmtree(tmp_path / "outputs" / ".cache")
    train(other)


def test_the_evaluated_captions_must_not_be_trained_on(train_config, pairs_file):
    config = copy.deepcopy(train_config)
    config["evaluation"]["prompts"] = str(pairs_file)
    with pytest.raises(UserError, match="shares 4 prompts and 20 images of the evaluation, in 11 rows"):
        train(config)
    run = train(changed(config, allow_overlap=True))
    assert manifest(run)["notes"] == [
        "trained on 4 prompts and 20 images of the evaluation, in 11 rows (data.allow_overlap)"
    ]


def test_single_images_under_kto_and_sft(train_config, make_pairs, tmp_path):
    rows = [
        {"caption": row["caption"], "jpg_0": row["jpg_0"], "label_0": row["label_0"]} for row in make_pairs(12)[:12]
    ]
    config = changed(train_config, path=written(tmp_path / "likes.parquet", rows))
    kto = train(config | {"objective": {"name": "diffusion_kto", "beta": 100.0}})
    assert {bool(float(metrics(kto)[-1][f"loss/{kind}"])) for kind in ("liked", "disliked")} == {True}
    train(config | {"objective": {"name": "sft"}})
    with pytest.raises(UserError, match="has single images"):
        train(config)
    with pytest.raises(UserError, match=r"has single images\. Set data.micro_conditioning=fixed, or own"):
        train(changed(config, micro_conditioning="shared") | {"objective": {"name": "sft"}})


def test_ties_are_kept_only_by_an_objective_that_uses_them(train_config, make_pairs, tmp_path):
    rows = make_pairs(8)[:8]
    for row in rows[::2]:
        row["label_0"] = 0.5
    config = changed(train_config, path=written(tmp_path / "pairs.parquet", rows), ties="keep")
    with pytest.raises(UserError, match="The objective mapo cannot use ties"):
        train(config)
    run = train(config | {"objective": {"name": "diffusion_dpo", "beta": 100.0}})
    assert manifest(run)["notes"] == ["ties kept", "reference: frozen copy"]


def test_weights_scale_the_loss(train_config, make_pairs, tmp_path):
    rows = [row | {"num_example_per_prompt": 4} for row in make_pairs(10)]
    config = changed(train_config, path=written(tmp_path / "pairs.parquet", rows))
    plain = train(changed(config, batch_size=4))
    weighted = train(changed(config, batch_size=4, weights="per_prompt"))
    assert float(metrics(weighted)[0]["loss"]) == pytest.approx(float(metrics(plain)[0]["loss"]) / 4, rel=1e-5)
    assert metrics(weighted)[0]["error_chosen"] == metrics(plain)[0]["error_chosen"]


def test_aspect_buckets_train_on_batches_of_one_shape(train_config, make_image, tmp_path):
    rows = [
        {
            "caption": "a fox",
            "jpg_0": make_image(2 * index, size),
            "jpg_1": make_image(2 * index + 1, size),
            "label_0": 1.0,
        }
        for index, size in enumerate([(48, 24), (24, 24), (24, 48)] * 6)
    ]
    config = changed(train_config, path=written(tmp_path / "pairs.parquet", rows), resolution=32, aspect_buckets=True)
    assert len(metrics(train(config))) == 6


def test_a_folder_of_pairs(train_config, make_image, tmp_path):
    captions = ["name,caption"]
    for index in range(6):
        for side in ("w", "l"):
            (tmp_path / "mine" / side).mkdir(parents=True, exist_ok=True)
            (tmp_path / "mine" / side / f"{index}.png").write_bytes(make_image(index + 10 * (side == "l"), (20, 24)))
        captions.append(f"{index}.png,a fox number {index}")
    (tmp_path / "mine" / "captions.csv").write_text("\n".join(captions))
    online, cached = (train(changed(train_config, path=str(tmp_path / "mine"), cache=cache)) for cache in (False, True))
    for row, other in zip(metrics(online), metrics(cached), strict=True):
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), abs=1e-5)


@pytest.mark.parametrize(("label", "said"), [(1.0, "none is disliked"), (0.0, "none is liked")])
def test_an_empty_class_of_single_images_is_refused(train_config, tmp_path, make_image, label, said):
    rows = [{"caption": "a fox", "jpg_0": make_image(number, (16, 16)), "label_0": label} for number in range(8)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "likes.parquet")
    config = changed(train_config, path=str(tmp_path / "likes.parquet"))
    with pytest.raises(UserError, match=said):
        train(config | {"objective": {"name": "diffusion_kto", "beta": 1000}})


def test_weights_and_noise_that_do_not_fit_are_refused(train_config):
    with pytest.raises(UserError, match="has no column weight"):
        train(changed(train_config, weights="column"))
    with pytest.raises(UserError, match=r"learns from inverted noise.*diffusion=ddim_inversion"):
        train(train_config | {"objective": {"name": "inpo", "beta": 10}})


def test_scorers_of_the_evaluation_that_follows_are_loaded_first(train_config, tmp_path):
    scorers = [{"_target_": "subject", "pictures": str(tmp_path / "nowhere"), "features": "concept_judge"}]
    judged = train_config["evaluation"] | {"after_training": True, "scorers": scorers, "target_style": None}
    with pytest.raises(UserError, match="which is no folder"):
        train(train_config | {"evaluation": judged})


def test_smoothed_labels_are_asked_for_where_all_are_certain(train_config):
    """Also through the safeguard."""
    inverted = train_config | {"diffusion": train_config["diffusion"] | {"noise": "renoise_inversion"}}
    smpo = {"name": "smpo", "beta": 10, "sharpness": 10}
    for objective in (smpo, {"name": "sdpo", "mu": 0.6, "base": smpo}):
        with pytest.raises(UserError, match=r"are certain.*recipe=smoothed labels=soft"):
            train(inverted | {"objective": objective})
