"""Numbers and findings in words. Every sentence follows from the estimates by a rule stated here."""

from __future__ import annotations

import math

from mapolab.evaluation.intervals import INTERVALS, NO_SPREAD, Estimate
from mapolab.evaluation.options import DRAWN_BY
from mapolab.evaluation.statistics import MINIMUM
from mapolab.report.names import scorer_name
from mapolab.report.summary import Comparison, ScoreSummary

MINUS = "\N{MINUS SIGN}"


def decimals(estimates: list[Estimate]) -> int:
    """Digits after the point: to the first figure of the widest interval's half-width, at least 2 and at most 6."""
    widest = max((estimate.high - estimate.low for estimate in estimates if estimate.known), default=0.0)
    return 2 if widest <= 0 else min(max(-math.floor(math.log10(widest / 2)), 2), 6)


def visible_digits(value: float, digits: int) -> int:
    """`digits`, or as many more as it takes for a value other than 0 not to read as 0; at most 9."""
    return next((more for more in range(digits, 9) if float(f"{value:.{more}f}") != 0), 9)


def number(value: float, digits: int) -> str:
    """With a real minus sign, and never a negative zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def interval(estimate: Estimate, digits: int) -> str:
    """`[0.12, 0.34]`; a dash where it is unknown."""
    return f"[{number(estimate.low, digits)}, {number(estimate.high, digits)}]" if estimate.known else "[\N{EN DASH}]"


def percent(value: float) -> str:
    """A share in whole per cent, but never 0% or 100% for what only rounds to it."""
    rounded = round(100 * value)
    if rounded == 100 and value < 1:
        return ">99%"
    return "<1%" if rounded == 0 and value > 0 else f"{rounded}%"


def joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def subtitle(comparison: Comparison, pictures: int, most_names: int) -> str:
    """Who is compared with whom, over how much. most_names: more methods than that are counted and not named."""
    names = [comparison.names[method.label] for method in comparison.methods]
    told = joined(names) if len(names) <= most_names else f"{len(names)} methods"
    against = comparison.names[comparison.base.label]
    if comparison.base_name == "the base":
        all_trained = len(comparison.trained) == len(names)
        against = "the base model they started from" if all_trained else "the base model"
    return f"{told}, against {against}. {pictures} pictures a model{_seeds(comparison)}."


def _seeds(comparison: Comparison) -> str:
    """`, one training seed each`; nothing where nothing was trained."""
    runs = sum(len(method.runs) for method in comparison.trained)
    if not runs:
        return ""
    return ", one training seed each" if runs == len(comparison.trained) else f", {runs} training runs"


def opening(comparison: Comparison) -> str | None:
    """Where the base stands by the first scorer; None without scorers."""
    if not comparison.scores:
        return None
    score = comparison.scores[0]
    name = "The base model" if comparison.base_name == "the base" else comparison.base_name
    return f"{name} scores {_estimate(score, comparison.base.label)} for {scorer_name(score.name)}."


def findings(comparison: Comparison) -> list[tuple[str, str]]:
    """(method, what it did) for each method; the sentence goes on from the method's name.

    A score changed if its paired difference from the base stands after Holm's correction, as the table's marks say. The
    first scorer is told in full.
    """
    return [(comparison.names[method.label], _finding(comparison, method.label)) for method in comparison.methods]


def leader(comparison: Comparison) -> str | None:
    """Which method is best by the first scorer, and of which others measurably; None for one method."""
    if not comparison.scores or len(comparison.methods) < 2:
        return None
    score = comparison.scores[0]
    sign = 1 if score.higher_is_better else -1
    best, *others = sorted(
        (method.label for method in comparison.methods), key=lambda label: -sign * score.mean[label].value
    )
    unresolved = [comparison.names[other] for other in others if not score.differs(best, other)]
    beginning = f"By {scorer_name(score.name)}, {comparison.names[best]} is ahead of the other methods"
    if not unresolved:
        return f"{beginning}, measurably of each."
    return f"{beginning}, but not measurably of {joined(unresolved)}."


def caveat(comparison: Comparison) -> str:
    """What the intervals speak of, and what they do not."""
    seeds = {len(method.runs) for method in comparison.trained}
    if comparison.clusters < MINIMUM:
        units = "clusters" if comparison.clustered else "prompts"
        return f"{comparison.over} are too few for intervals and p-values: it takes {MINIMUM} {units}."
    beginning = f"Brackets hold {percent(comparison.confidence)} {INTERVALS} over {comparison.over}"
    if not seeds:
        return f"{beginning}."
    if seeds == {1}:
        return f"{beginning}; with one training seed a method, they do not tell how another training would turn out."
    counted = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    return f"{beginning} and {counted} training seeds a method."


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know first: settings that differ, prompts that were cut, columns that were left out."""
    told = []
    runs = [run for method in comparison.everyone for run in method.runs]
    keys = [key for key in DRAWN_BY if len({str(run.settings.get(key)) for run in runs}) > 1]
    if keys:
        told.append(f"The pictures were drawn with different settings: {joined(keys)} differ, so scores do, too.")
    cut = {reader: count for reader, count in comparison.settings.get("cut_prompts", {}).items() if count}
    if cut:
        readers = joined([f"{scorer_name(reader)} ({count})" for reader, count in cut.items()])
        told.append(f"Some prompts are longer than their readers take, who saw only their beginning: {readers}.")
    used = {score.name for score in comparison.scores}
    left_out = {scorer["name"] for run in runs for scorer in run.settings["scorers"]} - used
    if left_out:
        told.append(f"Not every run was scored by {joined(sorted(left_out))}, which is left out.")
    return told


def _finding(comparison: Comparison, label: str) -> str:
    if not comparison.scores:
        return "was evaluated without a scorer: there are pictures to look at, and no numbers."
    first, *others = comparison.scores
    verdicts = {score.name: score.verdict(label) for score in others}
    parts = [_first_score(first, label)]
    parts += [_change(score, label) for score in others if verdicts[score.name] in ("better", "worse")]
    if unchanged := [score for score in others if verdicts[score.name] == "same"]:
        parts.append(f"{_names(unchanged)} did not change measurably")
    unknown = [score for score in others if verdicts[score.name] == "unknown"]
    for told in dict.fromkeys(_unknown(score, label) for score in unknown):
        parts.append(told.format(_names([score for score in unknown if _unknown(score, label) == told])))
    return "; ".join(parts) + "."


def _unknown(score: ScoreSummary, label: str) -> str:
    found = score.against[label][score.base]
    if found.why == NO_SPREAD and found.ties == 1:
        return "{} did not change in any picture"
    return f"no change of {{}} can be told ({found.why})"


def _names(scores: list[ScoreSummary]) -> str:
    return joined([scorer_name(score.name) for score in scores])


def _first_score(score: ScoreSummary, label: str) -> str:
    told, difference, verdict = _estimate(score, label), score.difference[label], score.verdict(label)
    name = scorer_name(score.name)
    if verdict == "unknown":
        return f"has {told} for {name}, and no change can be told ({score.against[label][score.base].why})"
    if verdict == "same":
        return f"did not change {name} measurably ({told})"
    verb = "raised" if difference.value > 0 else "lowered"
    before, after = score.mean[score.base].value, score.mean[label].value
    digits = decimals(list(score.mean.values()))
    if number(before, digits) != number(after, digits):
        return f"{verb} {name} to {told}"
    # Measurable, but too small for the table's digits, where it would read as no change at all.
    return f"{verb} {name} only by {number(abs(difference.value), visible_digits(difference.value, digits))}, to {told}"


def _change(score: ScoreSummary, label: str) -> str:
    difference = score.difference[label]
    digits = visible_digits(difference.value, decimals(list(score.difference.values())))
    verb = "rose" if difference.value > 0 else "fell"
    # Up is better for most scores; say so only where a reader would guess wrong.
    better = (difference.value > 0) == score.higher_is_better
    aside = "" if score.higher_is_better else f" ({'better' if better else 'worse'})"
    return f"{scorer_name(score.name)} {verb} by {number(abs(difference.value), digits)}{aside}"


def _estimate(score: ScoreSummary, label: str) -> str:
    digits = decimals(list(score.mean.values()))
    return f"{number(score.mean[label].value, digits)} {interval(score.mean[label], digits)}"
