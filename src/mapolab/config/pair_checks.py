"""The start-up checks of `mapolab make-pairs` and `mapolab iterate`."""

from pathlib import Path
from typing import Any

from mapolab.config import files_named
from mapolab.errors import UserError
from mapolab.output import PAIRS, ROUNDS
from mapolab.paths import resolve

Config = dict[str, Any]

# What `mapolab iterate` has as data.path: the pairs of each round.
PAIRS_OF_ROUND = "round-<n>/pairs"
# What each recipe needs, and the further keys that only it knows.
NEEDED = {
    "prefixes": ("models", "prompts"),
    "models": ("models", "prompts"),
    "ranked": ("models", "prompts", "ranked_by"),
    "targets": ("models", "targets"),
    "votes": ("votes",),
    "smoothed": ("data_path", "ranked_by"),
}
WORDS = ("chosen_prefix", "rejected_prefix", "chosen_suffix", "rejected_suffix")
OWN = {
    **dict.fromkeys(WORDS, ("prefixes",)),
    **dict.fromkeys(("targets", "rejected_prompt", "rejected_words"), ("targets",)),
    "votes": ("votes",),
    "data_path": ("smoothed",),
    "prompts": ("prefixes", "models", "ranked"),
    "models": ("prefixes", "models", "ranked", "targets", "votes"),
    **dict.fromkeys(("split", "revision", "limit"), ("prefixes", "models", "ranked", "smoothed")),
}


def check_make_pairs(config: Config) -> None:
    """Raise UserError for what is missing, what the recipe does not know, and files that are not there."""
    recipe = config["recipe"]
    if missing := [key for key in NEEDED[recipe] if not config[key]]:
        raise UserError(f"recipe={recipe} needs {missing[0]}. Give it one: {missing[0]}=...")
    if foreign := [key for key, owners in OWN.items() if config[key] and recipe not in owners]:
        owners = " or ".join(OWN[foreign[0]])
        raise UserError(f"{foreign[0]} belongs to recipe={owners}, not to {recipe}. Leave it out.")
    if config["images_per_prompt"] > 1 and recipe in ("votes", "smoothed"):
        raise UserError(f"recipe={recipe} draws nothing, so images_per_prompt has no meaning. Leave it out.")
    _check_devices(config["devices"])
    check_ranking(config)
    files_named.check_output(Path(config["output_dir"]), PAIRS)
    files_named.check_prompts(config["prompts"], "prompts")
    files_named.check_prompts(config["held_out"], "held_out")
    _check_recipe(config)


def check_ranking(config: Config) -> None:
    """Scorers, limits, labels and weights, which both commands have."""
    from mapolab.evaluation.scorers.registry import check_names
    from mapolab.pairs.ranking import label_scale

    for key in ("ranked_by", "scorers"):
        if config[key] is not None and not isinstance(config[key], list):
            raise UserError(f"{key} is {config[key]}. Give a list, such as {key}=[{config[key]}].")
        check_names(config[key] or [], key)
    if config["labels"] == "soft" and not config["ranked_by"]:
        raise UserError("labels=soft needs a scorer that gives them. Name one: ranked_by=[pickscore].")
    if config["weights"] == "gap" and not config["ranked_by"]:
        raise UserError("weights=gap needs a scorer whose gap it is. Name one: ranked_by=[pickscore].")
    label_scale(config["labels"], config["label_scale"], config["ranked_by"])


def check_iterate(config: Config) -> None:
    """What a run's own checks do not know."""
    if not config["prompts"] or not config["ranked_by"]:
        key = "ranked_by" if config["prompts"] else "prompts"
        raise UserError(f"Each round draws prompts and has the pictures ranked, so {key} needs a value: {key}=...")
    if config["task"] != "align":
        raise UserError("There are no rounds of task=tiny_base. Leave task as it is.")
    if config["rollout"] is not None:
        raise UserError(
            f"objective={config['objective']['name']} draws and scores its own pictures in every step, so rounds have "
            "nothing to add. Use `mapolab train`, or an objective that learns from pairs."
        )
    if config["rounds"] > 1 and (config["model"]["lora"] or {}).get("learned_token"):
        raise UserError(
            "A word is learned once: the second round would start from a model that has it. Set rounds=1, or "
            "model.lora.learned_token=null."
        )
    if config["data"]["path"] != PAIRS_OF_ROUND:
        raise UserError("Each round makes its own pairs. Leave data.path as it is, or use `mapolab train`.")
    if config["data"]["validation_split"] and not config["data"]["validation_path"]:
        raise UserError("The pairs of a round have no splits. Name held-out pairs by data.validation_path.")
    if config["output_dir"]:
        files_named.check_output(Path(config["output_dir"]), ROUNDS)
    _check_devices(config["devices"])
    _check_several(config["images_per_prompt"])
    check_ranking(config)
    files_named.check_prompts(config["prompts"], "prompts")


def _check_recipe(config: Config) -> None:
    recipe = config["recipe"]
    if recipe == "prefixes":
        words = [config[key] or "" for key in WORDS]
        if words[0] == words[1] and words[2] == words[3]:
            raise UserError(
                "recipe=prefixes draws a prompt in two wordings, but both are the same here. Give chosen_prefix and "
                "rejected_prefix (or ..._suffix), such as \"chosen_prefix='Disney style animated image. '\"."
            )
        for key in WORDS[:2]:
            if (prefix := config[key]) and prefix.isascii() and not prefix[-1].isspace():
                raise UserError(
                    f"{key}={prefix!r} would run into the prompt's first word: it ends without a space. In a shell it "
                    f"takes two kinds of quotes: \"{key}='{prefix} '\"."
                )
    elif recipe == "ranked":
        _check_several(config["images_per_prompt"])
    elif recipe == "targets":
        _check_targets(config)
    elif recipe == "votes" and not Path(config["votes"]).is_file():
        raise UserError(f"votes={config['votes']} does not exist. Name the votes.jsonl that the page exported.")
    elif recipe == "smoothed":
        files_named.check_data(config["data_path"], "data_path")
        if config["labels"] != "soft":
            raise UserError("recipe=smoothed replaces labels by soft ones. Add labels=soft.")


def _check_targets(config: Config) -> None:
    if not Path(resolve(config["targets"])).is_dir():
        raise UserError(f"targets={config['targets']} is no folder. Name a folder of pictures with captions.csv.")
    if config["rejected_prompt"] and config["rejected_words"]:
        raise UserError("rejected_prompt and rejected_words both say what is drawn against the targets. Give one.")
    if wrong := [words for words in config["rejected_words"] if not _is_replacement(words)]:
        raise UserError(f"rejected_words has {wrong[0]}. Give pairs, a word and what replaces it: [['<fox>',fox]].")


def _is_replacement(words: Any) -> bool:
    return isinstance(words, list) and len(words) == 2 and all(isinstance(word, str) for word in words)


def _check_several(images_per_prompt: int) -> None:
    if images_per_prompt < 2:
        raise UserError(
            f"With images_per_prompt={images_per_prompt} a prompt has nothing to be compared with. Give 2 or more; 4 "
            "is usual."
        )


def _check_devices(devices: Any) -> None:
    if devices != "auto" and not (type(devices) is int and devices >= 1):
        raise UserError(f"devices is {devices}; give a number of 1 or more, or auto.")
