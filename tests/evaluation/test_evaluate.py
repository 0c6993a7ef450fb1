"""Generation and scoring through the real command's function, on a random pipeline."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.evaluation.evaluate import evaluate
from mapolab.evaluation.mismatch import mismatch
from mapolab.evaluation.models import base_of, find_models
from mapolab.evaluation.scores_table import read_scores
from mapolab.files import read_json, write_json
from mapolab.reading import read_rows
from mapolab.report.wall import embed
from mapolab.training.run import train

SETTINGS = {
    "split": None,
    "revision": None,
    "steps": 2,
    "guidance_scale": 2.0,
    "seed": 5,
    "batch_size": 2,
    "height": 16,
    "width": 16,
    "target_style": None,
    "scorers": [],
}


@pytest.fixture
def finished_run(train_config, tmp_path) -> Path:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\ntwo boats\nrain\n", encoding="utf-8")
    train_config["evaluation"] |= SETTINGS | {"prompts": str(prompts)}
    train_config["data"]["allow_overlap"] = True  # the prompts are captions of the pairs
    train_config["trainer"]["max_steps"] = 2
    train_config["schedule"]["warmup_steps"] = 0
    train_config["optimizer"]["lr"] = 0.1
    return train(train_config)


@pytest.fixture
def here(finished_run, tmp_path):
    """Evaluates with everything below tmp_path; returns the folders, the base's first."""

    def run(*models, **given) -> list[Path]:
        named = list(models) or [str(finished_run)]
        return evaluate({"models": named, "output_root": str(tmp_path / "outputs"), **given})

    return run


def pictures(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "images").iterdir())]


def stored(tmp_path: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in (tmp_path / "outputs" / ".store").rglob("*.*")}


def test_an_interrupted_evaluation_continues_with_the_same_pictures(here, tmp_path):
    base, run = here()
    whole = pictures(run)
    assert len(whole) == 3 and whole != pictures(base)
    # What a kill leaves behind: some pictures in the store, no table.
    shutil.rmtree(run)
    kept = sorted(file for file in stored(tmp_path) if file.suffix == ".png")
    for file in kept[::2]:
        file.unlink()
    assert here() == [base, run]
    assert pictures(run) == whole


def test_nothing_is_drawn_or_scored_twice(here, finished_run, tmp_path):
    here(scorers=["nsfw"])
    before = stored(tmp_path)
    moved = shutil.copytree(finished_run, tmp_path / "elsewhere")
    for file in moved.glob("evaluation"):
        shutil.rmtree(file)
    _, again = here(str(moved), scorers=["nsfw"])
    assert stored(tmp_path) == before
    assert len(read_rows(again / "scores.csv")) == 3


def test_scorers_that_come_later_join_the_table(here):
    _, run = here()
    assert list(read_rows(run / "scores.csv")[0]) == ["index", "prompt", "seed", "image"]
    whole = pictures(run)
    assert here(scorers=["nsfw"])[1] == run
    here()
    rows = read_rows(run / "scores.csv")
    assert list(rows[0]) == ["index", "prompt", "seed", "image", "nsfw"]
    assert all(0 <= float(row["nsfw"]) <= 1 for row in rows)
    assert [scorer["name"] for scorer in read_json(run / "settings.json")["scorers"]] == ["nsfw"]
    assert pictures(run) == whole


@pytest.mark.parametrize(("processes", "images_per_prompt"), [(2, 2), (3, 1)])
def test_several_processes_draw_the_pictures_of_one(here, finished_run, tmp_path, processes, images_per_prompt):
    """By Fabric's own processes over gloo, one thread each: 3 groups of 2 for two, and 2 groups for three, where the
    last process has nothing to draw."""
    alone = here(scorers=["nsfw"], images_per_prompt=images_per_prompt)
    together = tmp_path / "together"
    command = ["evaluate", f"models={finished_run}", "scorers=[nsfw]", f"devices={processes}"]
    command.append(f"images_per_prompt={images_per_prompt}")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "mapolab", *command, f"output_root={together}"], check=True, env=environment, timeout=240
    )
    base = next((together / "models").glob("base-*/evaluation/*"))
    run = max((finished_run / "evaluation").iterdir(), key=lambda folder: (folder / "scores.csv").stat().st_mtime)
    for one, two in zip(alone, (base, run), strict=True):
        assert pictures(one) == pictures(two)
        assert read_rows(one / "scores.csv") == read_rows(two / "scores.csv")


def test_killed_between_its_table_and_its_settings_it_mixes_nothing(here, monkeypatch):
    _, own = here()
    before = (own / "settings.json").read_bytes()
    replace = os.replace

    def killed(source, target):
        if Path(target).parent == own and Path(target).name == "scores.csv":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        here(scorers=["jpeg_size"])
    monkeypatch.undo()
    assert not (own / "scores.csv").exists() and (own / "settings.json").read_bytes() != before
    (own / ".0123456789ab.tmp").touch()
    (own / "images" / ".0123456789ab.tmp").touch()
    here(scorers=["jpeg_size"])
    assert read_scores(own).scorers == ("jpeg_size",)
    assert not list(own.rglob("*.tmp"))


def test_nothing_is_written_outside_of_a_runs_folder(here, finished_run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (finished_run / "evaluation").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"evaluation leads out of .*, to .*elsewhere, by a symbolic link"):
        here()
    (finished_run / "mismatch").symlink_to(elsewhere)
    config = compose("mismatch", [f"run={finished_run}", "features=pixels", f"output_root={tmp_path / 'outputs'}"])
    with pytest.raises(UserError, match="mismatch leads out of"):
        mismatch(config)
    assert not list(elsewhere.iterdir())


def test_the_folder_of_a_model_must_be_ours(here, tiny_pipeline_folder, tmp_path):
    given = {"prompts": str(tmp_path / "prompts.txt"), "steps": 1, "height": 16, "width": 16, "batch_size": 3}
    [folder] = here(str(tiny_pipeline_folder), **given)
    model = folder.parent.parent
    (model / "manifest.json").write_text('{"settings": {}}')
    with pytest.raises(UserError, match=r"its manifest\.json is no whole one of an evaluated model"):
        here(str(tiny_pipeline_folder), **given)


def test_categories_and_clusters_stand_in_the_table_and_come_later_without_drawing(here, finished_run, tmp_path):
    folders = here(scorers=["nsfw"], images_per_prompt=2)
    before, rows = stored(tmp_path), read_scores(folders[1]).pictures
    table = tmp_path / "Prompts.CSV"
    table.write_text("prompt,category,cluster\na fox,animal,one\ntwo boats,,two\nrain,weather,one\n")
    assert here(scorers=["nsfw"], images_per_prompt=2, prompts=str(table)) == folders and stored(tmp_path) == before
    labels = [("animal", "one"), ("", "two"), ("weather", "one")]
    for folder in folders:
        found = read_scores(folder)
        assert [(picture["category"], picture["cluster"]) for picture in found.pictures] == [
            labels[n // 2] for n in range(6)
        ]
        assert [picture | {"category": "", "cluster": ""} for picture in found.pictures] == list(rows)
        assert found.scorers == ("nsfw",)


def test_the_base_is_evaluated_beside_the_run_and_other_settings_elsewhere(here, finished_run):
    base, run = here()
    linked = finished_run / read_json(run / "links.json")["base"]
    assert linked.resolve() == base.parent.parent.resolve()
    assert read_json(linked / "manifest.json")["label"] == "base"
    for change in ({"guidance_scale": 1.0}, {"negative_prompt": "rain"}, {"scheduler": "ddim"}, {"seed": 6}):
        other_base, other = here(**change)
        assert other != run
        assert pictures(other) != pictures(run) and pictures(other_base) != pictures(base)


def test_every_picture_tells_how_it_was_drawn(here):
    _, run = here(images_per_prompt=2, limit=2)
    rows = read_rows(run / "scores.csv")
    assert [(row["index"], row["seed"], row["prompt"]) for row in rows] == [
        ("0", "5", "a fox"), ("0", "6", "a fox"), ("1", "5", "two boats"), ("1", "6", "two boats"),
    ]  # fmt: skip
    with Image.open(run / rows[1]["image"]) as picture:
        assert picture.text["prompt"] == "a fox" and picture.text["seed"] == "6"
        assert '"guidance_scale": 2.0' in picture.text["settings"]


def test_pipelines_unets_and_loras_are_models_too(here, finished_run, tiny_pipeline_folder, tmp_path):
    own = {"pretrained": str(tiny_pipeline_folder), "unet": str(finished_run / "unet"), "name": "by its unet"}
    base, run, plain, unet = here(str(finished_run), str(tiny_pipeline_folder), own)
    assert plain != base and pictures(plain) == pictures(base)
    assert pictures(unet) == pictures(run)
    assert read_json(unet.parent.parent / "manifest.json")["label"] == "by-its-unet"
    lora = tmp_path / "lora.safetensors"
    name = "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0"
    halves = torch.randn(4, 16), torch.randn(16, 4)
    save_file({f"{name}.lora_A.weight": halves[0], f"{name}.lora_B.weight": halves[1]}, lora)
    (adapted,) = here({"pretrained": str(tiny_pipeline_folder), "lora": str(lora)}, **SETTINGS | prompts_of(run))
    assert pictures(adapted) != pictures(plain)


def prompts_of(evaluation: Path) -> dict[str, str]:
    return {"prompts": read_json(evaluation / "settings.json")["prompts"]}


def test_models_that_cannot_draw_are_refused(here, finished_run, tiny_pipeline_folder, tmp_path):
    with pytest.raises(UserError, match="is no finished run, no pipeline"):
        here(str(tmp_path))
    with pytest.raises(UserError, match=r"There is no published:dpo.*published:sdxl, published:diffusion_dpo"):
        here("published:dpo")
    with pytest.raises(UserError, match="has no key ckpt"):
        here({"ckpt": "x"})
    other = shutil.copytree(tiny_pipeline_folder, tmp_path / "sd15")
    index = read_json(other / "model_index.json") | {"_class_name": "StableDiffusionPipeline"}
    write_json(other / "model_index.json", index)
    with pytest.raises(UserError, match=r"^The model .*sd15 is a StableDiffusionPipeline, but mapolab is for SDXL"):
        here(str(other), prompts="builtin:emoji/prompts/test.csv")
    wrong = tmp_path / "lora.safetensors"
    save_file({"unet.nowhere.lora_A.weight": torch.ones(4, 16)}, wrong)
    with pytest.raises(UserError, match="does not fit"):
        here({"pretrained": str(tiny_pipeline_folder), "lora": str(wrong)}, prompts="builtin:emoji/prompts/test.csv")
    write_json(finished_run / "manifest.json", read_json(finished_run / "manifest.json") | {"status": "interrupted"})
    with pytest.raises(UserError, match="interrupted, not finished"):
        here()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "own unet"])
def test_a_model_that_is_not_whole_is_refused_before_another_one_draws(here, tiny_pipeline_folder, tmp_path, part):
    broken = shutil.copytree(tiny_pipeline_folder, tmp_path / "broken")
    stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
    file = broken / part.removeprefix("own ") / f"{stem}.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name != max(tensors)}, file)
    second = {"pretrained": str(tiny_pipeline_folder), "unet": str(broken / "unet")} if "own" in part else str(broken)
    with pytest.raises(UserError, match="They are not whole"):
        here(str(tiny_pipeline_folder), second, prompts="builtin:emoji/prompts/test.csv", limit=2)
    assert not stored(tmp_path)


def test_runs_without_weights_are_refused(here, finished_run):
    shutil.rmtree(finished_run / "unet")
    with pytest.raises(UserError, match="is finished, but its weights are gone"):
        here()


def test_runs_of_different_settings_need_a_word(here, finished_run, tmp_path):
    other = shutil.copytree(finished_run, tmp_path / "other")
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("guidance_scale: 2.0", "guidance_scale: 7.5"))
    with pytest.raises(UserError, match=r"guidance_scale is 2.0 in .* and 7.5 in .*Say which: guidance_scale="):
        here(str(finished_run), str(other))
    assert len(here(str(finished_run), str(other), guidance_scale=3.0)) == 3


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-40], lambda data: data[:200] + b"x" + data[201:], lambda _: b""]
)
def test_a_broken_picture_is_named_by_compare_and_drawn_again_by_evaluate(here, damage):
    """images/ holds hard links into the store, so both names are broken, and both must come back."""
    _, run = here(scorers=["nsfw"])
    whole, rows = pictures(run), read_rows(run / "scores.csv")
    file = run / rows[1]["image"]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=f"{file.name} is broken .*draws it again"):
        embed(file)
    here(scorers=["nsfw"])
    assert pictures(run) == whole and read_rows(run / "scores.csv") == rows
    assert embed(file).startswith("data:image/png")


def test_an_edited_picture_is_drawn_and_scored_again(here, reliability):
    """Whole pictures, but not those that were drawn: the user's edit of images/, which is the store's file too."""
    _, run = here(scorers=["nsfw"])
    whole, rows = pictures(run), read_rows(run / "scores.csv")
    edited, exchanged = (run / rows[number]["image"] for number in (0, 1))
    Image.new("RGB", (16, 16), "green").save(edited)
    exchanged.write_bytes((run / rows[2]["image"]).read_bytes())
    here(scorers=["nsfw", "jpeg_size"])  # without it, they would be scored by jpeg_size as they are
    assert pictures(run) == whole
    again = read_rows(run / "scores.csv")
    assert [row["nsfw"] for row in again] == [row["nsfw"] for row in rows]
    run_elsewhere = here(scorers=["nsfw", "jpeg_size"], store=str(run.parent / "other_store"))[1]
    assert read_rows(run_elsewhere / "scores.csv") == again
    reliability(
        "A picture of an evaluation edited, or exchanged by another",
        "drawn and scored again",
        "same pictures and scores",
    )


def test_a_damaged_score_is_computed_again(here, tmp_path):
    _, run = here(scorers=["nsfw"])
    rows = read_rows(run / "scores.csv")
    kept = sorted((tmp_path / "outputs" / ".store").glob("*/*.json"))
    text = kept[0].read_text()
    digit = text.index(".") + 2
    kept[0].write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    for file in kept[1:3]:  # as an earlier version wrote them
        write_json(file, {name: value for name, value in read_json(file).items() if isinstance(value, float)})
    here(scorers=["nsfw"])
    assert read_rows(run / "scores.csv") == rows


def test_a_picture_that_is_lost_comes_back(here):
    _, run = here()
    whole = pictures(run)
    (run / "images" / "00001.png").unlink()
    here()
    assert pictures(run) == whole


def test_weights_that_are_not_finite_are_named(here, finished_run):
    tensors = load_file(finished_run / "unet" / "diffusion_pytorch_model.safetensors")
    tensors["conv_out.weight"] *= torch.nan
    save_file(tensors, finished_run / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=r"conv_out\.weight holds numbers that are not finite"):
        here()


def test_the_mismatch_of_a_run_is_that_of_its_model_on_its_own_data(finished_run, tmp_path, capsys):
    given = [f"run={finished_run}", "pairs=4", f"output_root={tmp_path / 'outputs'}"]
    path = mismatch(compose("mismatch", given))
    assert path.parent == finished_run / "mismatch"
    found = read_json(path)
    assert found["data"].endswith("pairs.parquet") and found["settings"]["steps"] == 2
    trained = find_models(str(finished_run), tmp_path / "outputs")[0]
    assert found["model"] == trained.fingerprint != base_of(trained.run, tmp_path / "outputs").fingerprint
    assert found["chosen"]["frechet_distance"] > 0 and "kernel_distance" in found["chosen"]
    told = capsys.readouterr().out
    assert "Frechet distance" in told and "FID" not in told  # these are not InceptionV3's features
    with pytest.raises(UserError, match=r"brings its own model, .* of data, evaluation would go unheard"):
        mismatch(compose("mismatch", [*given, "data.resolution=32"]))


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """(address, the paths that were asked for) of a server that knows nothing."""
    asked: list[str] = []

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def rewrite(run: Path, **blocks: dict) -> None:
    """Change keys of a saved config, as a stranger may."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {name: config[name] | block for name, block in blocks.items()}
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_saved_config_sends_nothing(here, finished_run, tmp_path, listener, monkeypatch, reliability):
    address, asked = listener
    monkeypatch.setenv("TOKEN", "secret-of-mine")
    for source in (
        f"{address}/${{oc.env:TOKEN}}/x",
        f"{address}/x.parquet",
        f"filecache::{address}/x",
        "file:///etc/x",
    ):
        rewrite(finished_run, evaluation={"prompts": source}, data={"path": source})
        told = "is not resolved" if "$" in source else r"If you trust it, say it yourself: (prompts|data\.path)='"
        with pytest.raises(UserError, match=told):
            here()
        with pytest.raises(UserError, match=told):
            mismatch(compose("mismatch", [f"run={finished_run}", f"output_root={tmp_path / 'outputs'}"]))
    assert not asked
    rewrite(finished_run, evaluation={"prompts": f"{address}/x.parquet"}, data={"path": f"{address}/x.parquet"})
    with pytest.raises(UserError, match=r"is not there, or not for you|has no parquet file"):
        here(prompts=f"{address}/x.parquet")
    asked_once = len(asked)
    with pytest.raises(UserError, match=r"is not there, or not for you|has no parquet file"):
        mismatch(compose("mismatch", [f"run={finished_run}", f"data.path={address}/x.parquet"]))
    assert 0 < asked_once < len(asked)
    reliability(
        "A downloaded run whose config names http://host/${oc.env:TOKEN}/x as prompts or data",
        "nothing is resolved, and no address is fetched without the command's word",
        "refused by name, no request",
    )


def test_a_saved_config_does_not_say_where_to_write(finished_run, tmp_path):
    rewrite(finished_run, data={"cache_folder": str(tmp_path / "elsewhere")})
    mismatch(compose("mismatch", [f"run={finished_run}", "pairs=4", f"output_root={tmp_path / 'outputs'}"]))
    assert not (tmp_path / "elsewhere").exists()


def test_long_prompts_are_counted(here, tmp_path, capsys):
    (tmp_path / "long.txt").write_text("a fox\nan extraordinarily long prompt\n")
    _, run = here(prompts=str(tmp_path / "long.txt"))
    assert read_json(run / "settings.json")["cut_prompts"] == {"the model": 1}
    assert "Of 2 prompts some are longer than their readers take: the model cuts 1." in capsys.readouterr().out


def test_one_base_judged_by_two_styles_keeps_both(here, tmp_path):
    first = here(scorers=["style"], target_style="twemoji")
    before = {file for file in stored(tmp_path) if file.suffix == ".png"}
    second = here(scorers=["style"], target_style="fluent-emoji-flat")
    assert not {*first} & {*second}
    assert {file for file in stored(tmp_path) if file.suffix == ".png"} == before
    scores = [[row["style"] for row in read_rows(folder / "scores.csv")] for folder in (first[0], second[0])]
    assert scores[0] != scores[1]
