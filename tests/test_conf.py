"""Every file under conf/ composes, and what names a class can be built."""

import shutil
from pathlib import Path

import pytest
import torch

from mapolab.config.compose import compose
from mapolab.config.identity import samples_per_step
from mapolab.config.instantiate import instantiate
from mapolab.paths import conf_folder

COMMANDS = ("train", "prepare", "plan", "evaluate", "mismatch", "compare", "export", "make-pairs", "iterate")
NEEDED = {name: ["data.path=p", "model.pretrained=m"] for name in ("base", "blank")}
NEEDED["personalization"] = [
    "data.path=p", "data.batch_size=8", "model.lora.token_initial=dog", "evaluation.scorers.0.pictures=p"
]  # fmt: skip
NEEDED |= {name: ["data.path=p"] for name in ("parquet_pairs", "folder_pairs", "pick_culture")}
NEEDED["culture"] = ["data.path=p", "evaluation.scorers.4.text=Japan"]
GROUPS = (
    "model",
    "diffusion",
    "data",
    "objective",
    "optimizer",
    "schedule",
    "strategy",
    "trainer",
    "preemption",
    "evaluation",
    "logger",
)
OPTIONS = sorted((file.parent.name, file.stem) for file in conf_folder().glob("*/*.yaml") if file.parent.name in GROUPS)


def test_every_file_is_a_command_a_group_or_an_experiment() -> None:
    assert {file.stem for file in conf_folder().glob("*.yaml")} == set(COMMANDS)
    folders = {*GROUPS, "lora", "sampling", "experiment", "sweep", "hydra"}
    assert {folder.name for folder in conf_folder().iterdir() if folder.is_dir()} == folders


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    assert group in compose("train", [f"{group}={option}", *NEEDED.get(option, [])])


@pytest.mark.parametrize("file", sorted((conf_folder() / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_composes_under_its_own_name(file: Path) -> None:
    config = compose("train", [f"experiment={file.stem}", *NEEDED.get(file.stem, [])])
    assert config["name"] and config["trainer"]["max_steps"] > 0


# MaPO's B, pairs of a step, rates of MaPO and Diffusion-DPO: 2406.06424v2, but for general's last, the program's.
TASKS = {
    "general": (8, 2048, 1e-7, 2.048e-5),
    "safety": (64, 128, 1e-7, 1e-6),
    "style_cartoon": (64, 128, 1e-7, 1e-6),
    "culture": (32, 128, 1e-7, 1e-6),
}


@pytest.mark.parametrize("task", TASKS)
def test_mapos_tasks_have_its_settings(task: str) -> None:
    mapo, dpo = (
        compose("train", [f"experiment={task}", *NEEDED.get(task, []), f"objective={name}"])
        for name in ("mapo", "diffusion_dpo")
    )
    rates = mapo["optimizer"]["lr"], dpo["optimizer"]["lr"]
    assert (mapo["objective"]["beta"], samples_per_step(mapo), *rates) == TASKS[task]
    for config in (mapo, dpo):
        assert (config["trainer"]["max_steps"], config["schedule"]["name"]) == (2000, "cosine")
        assert config["data"]["micro_conditioning"] == "fixed"


@pytest.mark.parametrize("file", sorted((conf_folder() / "sweep").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_sweep_composes_and_evaluates_what_it_searches_by(file: Path) -> None:
    config = compose("train", [f"sweep={file.stem}"])
    assert config["evaluation"]["after_training"] and "validation" in config["evaluation"]["prompts"]


@pytest.mark.parametrize("kind", ["launcher", "sweeper"])
def test_every_launcher_and_sweeper_composes(kind: str) -> None:
    for file in (conf_folder() / "hydra" / kind).glob("*.yaml"):
        assert compose("train", [f"hydra/{kind}={file.stem}"])["seed"] == 0


def test_evaluate_and_compare_compose() -> None:
    assert compose("evaluate", ["models=r"])["steps"] is None
    assert compose("prepare", ["parts=4"])["parts"] == 4
    assert compose("compare", ["runs=[a,b]"])["runs"] == ["a", "b"]
    assert compose("export", ["run=r", "to=t"])["formats"] == "auto"
    assert compose("mismatch", ["pairs=20"])["features"] == "efficientnet_lite0"
    assert compose("plan", ["accelerator=l4"])["efficiency"] == 0.4
    assert compose("make-pairs", ["recipe=votes", "votes=v", "output_dir=p"])["labels"] == "hard"
    assert compose("iterate", ["prompts=p", "ranked_by=[style]"])["rounds"] == 3


@pytest.mark.parametrize("file", sorted((conf_folder() / "objective").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_objective_has_its_own_beta_in_personalization(file: Path) -> None:
    overrides = [f"objective={file.stem}", "experiment=emoji_personalization"]
    mine, usual = (compose("train", overrides[: 1 + given])["objective"] for given in (True, False))
    assert mine == usual | ({"beta": 1024} if file.stem == "mapo" else {})


@pytest.mark.parametrize("file", sorted((conf_folder() / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_takes_the_policy_gradient(file: Path) -> None:
    given = [*NEEDED.get(file.stem, []), f"experiment={file.stem}", "objective=ddpo"]
    assert compose("train", given)["objective"].keys() == {"name", "clip_range", "advantage_clip", "kl_weight"}


@pytest.mark.parametrize("base", ["cdpo", "dmpo", "dspo", "inpo", "ipo", "smpo"])
def test_the_safeguard_goes_around_other_objectives(base: str) -> None:
    config = compose("train", ["objective=sdpo", f"objective@objective.base={base}"])
    alone = compose("train", [f"objective={base}"])
    assert config["objective"]["base"] == alone["objective"] and config["diffusion"] == alone["diffusion"]


def test_a_model_with_adapters_is_the_model_without_them_but_for_the_adapters() -> None:
    full, lora = (compose("train", [f"model={name}"])["model"] for name in ("sdxl", "sdxl_lora"))
    assert full["lora"] is None and lora["lora"]["rank"] == 64
    assert {key for key in full if full[key] != lora[key]} == {"lora", "frozen_dtype"}
    assert compose("train", ["model=sdxl_lora", "model.lora.rank=8"])["model"]["lora"]["rank"] == 8


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "optimizer"])
def test_every_optimizer_takes_a_step(option: str) -> None:
    if option == "adamw_bf16" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("its step is compiled, and there is no C++ compiler")
    weight = torch.nn.Parameter(torch.ones(3, 3))
    pytest.importorskip({"adamw_8bit": "bitsandbytes", "adamw_bf16": "torchao"}.get(option, "torch"))
    optimizer = instantiate(compose("train", [f"optimizer={option}"])["optimizer"], [weight])
    weight.square().sum().backward()
    optimizer.step()
    assert (weight < 1).all()


def test_tensorboard_writes_into_the_run_folder(tmp_path: Path) -> None:
    logger = instantiate(compose("train", ["logger=tensorboard"])["logger"], save_dir=str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_style_that_is_preferred_decides_pairs_and_judge() -> None:
    config = compose("train", ["data.preferred_style=twemoji", "data.resolution=32"])
    assert config["data"]["path"] == "builtin:emoji/pairs/twemoji.parquet"
    assert config["evaluation"]["target_style"] == "twemoji"
    assert (config["evaluation"]["height"], config["evaluation"]["width"]) == (32, 32)
