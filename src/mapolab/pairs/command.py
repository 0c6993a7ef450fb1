"""``mapolab make-pairs recipe=... output_dir=...``: draw, rank, filter, and write preference pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mapolab.data.records import TIE
from mapolab.errors import UserError
from mapolab.evaluation.models import EvaluatedModel
from mapolab.evaluation.processes import Processes, start_processes
from mapolab.evaluation.prompt_lengths import cut_by_models, cut_by_scorers, tell_cut
from mapolab.evaluation.scorers.registry import build_scorers
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.output import PAIRS
from mapolab.pairs.drawing import draw_sheets, store_of
from mapolab.pairs.filters import KEYS, Filters
from mapolab.pairs.folder import ResultFolder
from mapolab.pairs.held_out import HeldOut
from mapolab.pairs.judging import Judge, Pair
from mapolab.pairs.material import Material
from mapolab.pairs.ranking import label_scale
from mapolab.pairs.recipes import drawn
from mapolab.pairs.recipes.smoothed import smoothed
from mapolab.pairs.recipes.targets import targets
from mapolab.pairs.recipes.votes import votes
from mapolab.pairs.scoring import score_material
from mapolab.pairs.writing import TABLE, part_names, write_parts, write_table
from mapolab.texts import say

DRAWN: dict[str, Callable[..., Material]] = {
    "prefixes": drawn.prefixes,
    "models": drawn.models,
    "ranked": drawn.ranked,
    "targets": targets,
}
GIVEN: dict[str, Callable[..., Material]] = {"votes": votes, "smoothed": smoothed}
# What of the config decides the pairs, beside the recipe's material, the scorers and what is held out.
DECIDING = ("recipe", "seed", "pairing", "labels", "label_scale", "weights", *KEYS)


def make_pairs(config: dict[str, Any], models: Sequence[EvaluatedModel] | None = None) -> Path:
    """Make the pairs that `config` describes, or what is missing of them; returns their folder.

    models: those that draw, in place of what the config names. Pictures and scores that the store holds are not made
    again, so the same call continues a killed one; its files have the same bytes as if nothing had happened, on any
    number of processes. Raises UserError for what cannot be used, or leaves no pair; RunError for a score that is not
    finite.
    """
    config = config | {"label_scale": label_scale(config["labels"], config["label_scale"], config["ranked_by"])}
    folder = ResultFolder(Path(config["output_dir"]), PAIRS)
    folder.manifest()  # says what is wrong with the folder
    held_out = HeldOut.from_config(config, Path(config["output_root"]) / ".cache")
    recipe = config["recipe"]
    material = DRAWN[recipe](config, held_out, models) if recipe in DRAWN else GIVEN[recipe](config, held_out)
    processes = start_processes(config["devices"])
    # One process keeps others out for all of its kind.
    with folder.locked() if processes.rank == 0 else nullcontext():
        _make(config, folder, material, held_out, processes)
        processes.barrier()
    return folder.path


def _make(
    config: dict[str, Any], folder: ResultFolder, material: Material, held_out: HeldOut, processes: Processes
) -> None:
    ranked_by = config["ranked_by"] or []
    # A run brings the style that it is judged by.
    target_style = config["target_style"] or material.about.get("drawing", {}).get("target_style")
    scorers = build_scorers([*ranked_by, *config["scorers"]], target_style, processes.device, "ranked_by and scorers")
    filters = Filters.from_config(config, scorers)
    settings = {key: config[key] for key in DECIDING} | {
        "material": material.about,
        "scorers": {scorer.name: scorer.fingerprint for scorer in scorers},
        "ranked_by": len(ranked_by),
        "held_out": held_out.about,
    }
    folder.check(settings)
    processes.barrier()  # nobody begins the manifest before all have seen how it was
    if folder.is_finished():
        return _say(processes, f"The pairs in {folder.path} are finished.")
    cut = _tell_cut(material, scorers) if processes.rank == 0 else {}
    store, group = store_of(config), config["batch_size"] or material.batch_size
    if processes.rank == 0:
        store.sweep()
    new = draw_sheets(material.sheets, store, group, processes)
    processes.barrier()  # a process scores what others have drawn, too
    scored = score_material(scorers, material, store, group, processes)
    processes.barrier()
    judge = Judge(config, scorers, len(ranked_by), filters, store)
    pairs = judge.pairs(material.contests)
    dropped = {**material.dropped, **judge.dropped}
    if not pairs:
        raise UserError(_nothing_left(len(material.contests), dropped))
    ties = sum(pair.label == TIE for pair in pairs)
    if ties == len(pairs):
        raise UserError(_only_ties(ties, [scorer.name for scorer in scorers[: len(ranked_by)]]))
    if processes.rank == 0:
        # Of a round of `mapolab iterate`: which one.
        folder.claim(settings, **({"made_for": config["made_for"]} if config.get("made_for") else {}))
    processes.barrier()
    write_parts(folder.path, pairs, material.read, config["seed"], (processes.rank, processes.count))
    processes.barrier()
    if processes.rank == 0:
        write_table(folder.path, pairs, [scorer.name for scorer in scorers], config["seed"])
        counts = _counts(material, pairs, dropped)
        about = [scorer.about() for scorer in scorers]
        means = _means(pairs, scorers, judge)
        made = [*part_names(len(pairs)), TABLE]
        folder.finish(counts=counts, means=means, scorers=about, cut_prompts=cut, files=made)
    told = f"{new} pictures drawn, {scored} scores computed; " if processes.count == 1 else ""
    left_out = "".join(f"; {count} left out: {reason}" for reason, count in dropped.items())
    tied = f", {ties} of them ties" if ties else ""
    _say(processes, f"{told}{len(pairs)} pairs{tied} in {folder.path}{left_out}")


def _tell_cut(material: Material, scorers: Sequence[Scorer]) -> dict[str, int]:
    """Say and return how many different prompts the models and the scorers read only the beginning of."""
    captions = {contest.caption for contest in material.contests}
    drawn = {prompt for sheet in material.sheets for prompt, _, _ in sheet.drawings}
    models = [sheet.model for sheet in material.sheets]
    cut = cut_by_models(models, [*drawn], material.sheets[0].settings) if models else {}
    cut |= cut_by_scorers(scorers, [*captions])
    tell_cut(cut, len(captions | drawn))
    return cut


def _counts(material: Material, pairs: Sequence[Pair], dropped: dict[str, int]) -> dict[str, Any]:
    return {
        "pairs": len(pairs),
        "ties": sum(pair.label == TIE for pair in pairs),
        "captions": len({pair.caption for pair in pairs}),
        "contests": len(material.contests),
        "pictures": len({picture.uid for contest in material.contests for picture in contest.pictures}),
        "left_out": dropped,
    }


def _means(pairs: Sequence[Pair], scorers: Sequence[Scorer], judge: Judge) -> dict[str, dict[str, float]]:
    """By scorer, the mean score of all pictures that competed, and of the chosen and rejected ones that were kept."""
    return {
        scorer.name: {
            "all": judge.totals[number] / judge.seen,
            "chosen": sum(pair.chosen_scores[number] for pair in pairs) / len(pairs),
            "rejected": sum(pair.rejected_scores[number] for pair in pairs) / len(pairs),
        }
        for number, scorer in enumerate(scorers)
    }


def _nothing_left(contests: int, dropped: dict[str, int]) -> str:
    reasons = ", ".join(f"{count} by {reason}" for reason, count in dropped.items())
    return (
        f"Of {contests} prompts no pair is left ({reasons or 'there were none'}). Loosen those limits, or give more "
        "prompts or pictures of each."
    )


def _only_ties(ties: int, scorers: Sequence[str]) -> str:
    by = f" by {', '.join(scorers)}" if scorers else ""
    return (
        f"All {ties} pairs are ties{by}, so there is nothing to prefer. Give more prompts, more pictures of each "
        "(images_per_prompt), or a scorer that tells them apart in ranked_by."
    )


def _say(processes: Processes, text: str) -> None:
    if processes.rank == 0:
        say(text)
