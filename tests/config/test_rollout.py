"""Mistakes about drawing one's own pictures are one paragraph each, before anything is loaded."""

import pytest

from mapolab.config.checks import check
from mapolab.config.compose import compose
from mapolab.config.identity import run_name
from mapolab.errors import UserError
from mapolab.runs import label

MISTAKES = {
    "rollout.samples=40": "an optimizer step takes 64 pictures.* such as rollout.samples=64",
    "rollout.eta=0": "rollout.eta is 0.0; give a number above 0",
    "rollout.timestep_fraction=0.01": "leaves at least one step",
    "rollout.per_prompt_buffer=4": "there are never the 8",
    "rollout.rewards=[]": "Give a list of scorers",
    "rollout.rewards=[pick_score]": "rollout.rewards names pick_score. Did you mean pickscore",
    "rollout.rewards=[{scorer: nsfw, weight: 0}]": "the weight of nsfw is 0",
    "rollout.rewards=[{scorer: nsfw, wait: 2}]": "wait is no key of a reward",
    "rollout=null": "nothing says how: rollout is null",
    "model=tiny_twin_lora model.lora.dropout=0.1": "Set model.lora.dropout=0",
    "model=tiny_twin_lora data.cache=false model.lora.text_encoders=true": "trains the UNet alone",
    "model=tiny_twin_lora data.cache=false model.lora.learned_token='<fox>' model.lora.token_initial=cat": "Set "
    "model.lora.learned_token=null",
    "strategy=deepspeed_zero2": "Use strategy=ddp",
    "strategy=fsdp": "Use strategy=ddp",
    "data.ties=keep": "Set data.ties=drop",
    "data.micro_conditioning=own": "Set data.micro_conditioning=fixed",
    "data.prompt_dropout=0.1": "Set data.prompt_dropout=0.0",
    "diffusion=ddim_inversion": "Set diffusion.noise=gaussian",
    "diffusion.timestep_range=[0,499]": "Set diffusion.timestep_range=null",
    "trainer.validate_every=5 data.validation_path=builtin:emoji/pairs/twemoji.parquet": "trainer.validate_every=null",
    "experiment=emoji_style rollout={steps:3}": "only with objective=ddpo is the block rollout whole.* rollout=null",
    "experiment=emoji_style +sampling@rollout=ddim": "mapo learns from given pairs.* rollout=null",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_names_its_fix(overrides):
    given = [overrides] if "scorer" in overrides else overrides.split(" ")
    with pytest.raises(UserError, match=MISTAKES[overrides]):
        check(compose("train", given if "experiment" in overrides else ["experiment=emoji_ddpo", *given]), "train")


def test_there_is_nothing_to_prepare():
    with pytest.raises(UserError, match="ddpo draws its pictures, so there is nothing to prepare"):
        check(compose("prepare", ["experiment=emoji_ddpo"]), "prepare")


def test_the_plan_checks_the_block():
    with pytest.raises(UserError, match="eta is 0"):
        check(compose("plan", ["experiment=emoji_ddpo", "rollout.eta=0"]), "plan")


@pytest.mark.parametrize("experiment", ["emoji_style", "emoji_ddpo"])
def test_the_objective_alone_is_enough(experiment):
    config = compose("train", [f"experiment={experiment}", "objective=ddpo"])
    check(config, "train")
    assert config["rollout"]["eta"] == 1 and "defaults" not in config["objective"]


def test_runs_from_before_the_block_keep_their_names():
    config = compose("train", ["objective=mapo"])
    assert run_name(config) == run_name({key: value for key, value in config.items() if key != "rollout"})
    one, other = (compose("train", ["experiment=emoji_ddpo", f"rollout.steps={steps}"]) for steps in (5, 6))
    assert run_name(one) != run_name(other)


def test_a_label_says_what_is_rewarded():
    rewards = ["style", {"scorer": {"_target_": "jpeg_size", "larger_is_better": True}, "weight": 0.5}]
    assert (
        label({"name": "ddpo", "kl_weight": 0.0}, {"rewards": rewards})
        == "ddpo kl_weight=0 reward=style+0.5*jpeg_size,True"
    )
