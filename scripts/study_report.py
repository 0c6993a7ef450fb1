"""docs/study.md, its pictures, and the study's part of README.md, from what docs/study keeps of the runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from mapolab import files
from mapolab.evaluation.differences import Difference, compare, holm, measurable
from mapolab.evaluation.intervals import Estimate
from mapolab.evaluation.statistics import MethodScores, PairedStatistics
from mapolab.report.costs import COST_HEADERS
from mapolab.report.names import METHOD_NAMES
from mapolab.report.tables import p_value
from mapolab.tiny.concepts import concept_of
from study_plan import MISMATCHES, OBJECTIVES, SEARCH_SEED, SEEDS
from study_scores import DOCS, FOLDER, SCORERS, read

README_MARKS = "<!-- study: written by `make study` -->", "<!-- end of the study -->"
PICTURES = "Three test captions at each mismatch: the base's picture, then each method's, seed 0"
LEVEL = 0.05


@dataclass(frozen=True)
class Measured:
    """One mismatch. scores: by run (`base`, `mapo-seed0`) and scorer, (pictures,) each; `kept` is style x concept x
    background."""

    name: str
    prompts: tuple[str, ...]
    scores: dict[str, dict[str, np.ndarray]]

    @cached_property
    def statistics(self) -> PairedStatistics:
        """By the concept of each caption."""
        return PairedStatistics(np.array(self.prompts), np.array([concept_of(prompt) for prompt in self.prompts]))

    def of(self, method: str, scorer: str = "kept") -> MethodScores:
        bounds = (0.0, np.inf) if scorer == "pixel_distance" else (0.0, 1.0)
        if method == "base":
            return MethodScores(self.scores["base"][scorer][None], (None,), bounds)
        values = [self.scores[f"{method}-seed{seed}"][scorer] for seed in SEEDS]
        return MethodScores(np.stack(values), SEEDS, bounds)

    def kept(self, method: str) -> Estimate:
        return self.statistics.mean(self.of(method))

    def difference(self, one: str, other: str, scorer: str = "kept") -> Difference:
        return compare(self.statistics, self.of(one, scorer), self.of(other, scorer), scorer != "pixel_distance")

    @cached_property
    def of_base(self) -> dict[str, bool]:
        """Whether a method's kept style is measurably other than the base's, by Holm over the methods."""
        return _measurable({name: self.difference(name, "base").p_value for name in OBJECTIVES})

    @cached_property
    def of_pairs(self) -> dict[frozenset[str], bool]:
        """Whether any two methods' kept styles differ measurably, by Holm over all pairs."""
        pairs = combinations(("base", *OBJECTIVES), 2)
        return _measurable({frozenset(pair): self.difference(*pair).p_value for pair in pairs})


def _measurable(found: dict) -> dict:
    adjusted = holm(list(found.values()))
    return {key: measurable(value, LEVEL) for key, value in zip(found, adjusted, strict=True)}


def write_report() -> None:
    """Write docs/study.md and the part of README.md, from docs/study."""
    studies = [measure(mismatch) for mismatch in MISMATCHES]
    told = findings(studies)
    template = Path(__file__).with_name("study_template.md").read_text(encoding="utf-8")
    text = template.format(
        answer="\n\n".join(["\n".join(result_table(studies)), told]),
        mismatches="\n".join(mismatch_table()),
        leads="\n".join(lead_table(studies)),
        search="\n".join(search_table()),
        search_seed=SEARCH_SEED,
        seeds=", ".join(map(str, SEEDS)),
        pictures=PICTURES,
        cost="\n".join(cost_table()),
    )
    files.write_text(DOCS / "study.md", text)
    readme = Path("README.md").read_text(encoding="utf-8")
    short = "\n\n".join(["\n".join(kept_table(studies)), told, f"![{PICTURES}](docs/study.webp)"])
    before, rest = readme.split(README_MARKS[0])
    after = rest.split(README_MARKS[1])[1]
    files.write_text("README.md", f"{before}{README_MARKS[0]}\n\n{short}\n\n{README_MARKS[1]}{after}")


def measure(mismatch: str) -> Measured:
    columns: dict[str, dict[str, list[float]]] = {}
    rows = read(FOLDER / f"{mismatch}.csv")
    for row in rows:
        own = columns.setdefault(row["run"], {scorer: [] for scorer in SCORERS})
        for scorer in SCORERS:
            own[scorer].append(float(row[scorer]))
    scores = {run: {scorer: np.array(values) for scorer, values in own.items()} for run, own in columns.items()}
    for own in scores.values():
        own["kept"] = own["style"] * own["concept"] * own["background"]
    return Measured(mismatch, tuple(row["prompt"] for row in rows if row["run"] == "base"), scores)


def mismatch_table() -> list[str]:
    lines = [
        "| mismatch | preferred style | its share in the base's pictures of these concepts | feature distance | "
        "Frechet distance |",
        "|---|---|---:|---:|---:|",
    ]
    for row in read(FOLDER / "mismatch.csv"):
        style, share = MISMATCHES[row["mismatch"]]
        lines.append(f"| {row['mismatch']} | {style} | {share:.0%} | {row['distance']} | {row['frechet']} |")
    return lines


def kept_table(studies: list[Measured]) -> list[str]:
    """The kept style alone: a row for each method, a column for each mismatch."""
    lines = [f"| style kept | {' | '.join(study.name for study in studies)} |", "|---|" + "---:|" * len(studies)]
    for name in ("base", *OBJECTIVES):
        cells = [_estimate(study.kept(name), "") for study in studies]
        lines.append(f"| {METHOD_NAMES[name]} | {' | '.join(cells)} |")
    return lines


def result_table(studies: list[Measured]) -> list[str]:
    """What each method made of the base, at each mismatch: the kept style, and what it is made of."""
    lines = [
        "| mismatch | method | style kept | found from | style | concept | background | pixel distance |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for study in studies:
        for name in ("base", *OBJECTIVES):
            cells = [_estimate(study.kept(name), ""), "" if name == "base" else _found_from(study, name)]
            cells += [f"{study.of(name, scorer).values.mean():.2f}" for scorer in SCORERS]
            lines.append(f"| {study.name} | {METHOD_NAMES[name]} | {' | '.join(cells)} |")
    return lines


def _found_from(study: Measured, name: str) -> str:
    """The smallest difference from the base that a study like this finds in four of five cases."""
    found = compare(study.statistics, study.of(name), study.of("base"), True, len(OBJECTIVES)).detectable
    return "\N{EN DASH}" if found is None else f"{found:.2g}"


def lead_table(studies: list[Measured]) -> list[str]:
    """p-values by Holm over the table."""
    lines = ["| mismatch | judged by | MaPO minus Diffusion-DPO | MaPO wins | p |", "|---|---|---:|---:|---:|"]
    judged = [(study, scorer) for study in studies for scorer in ("kept", *SCORERS)]
    found = [study.difference("mapo", "diffusion_dpo", scorer) for study, scorer in judged]
    for (study, scorer), lead, adjusted in zip(judged, found, holm([lead.p_value for lead in found]), strict=True):
        words = "style kept" if scorer == "kept" else scorer.replace("_", " ")
        rate = lead.win_rate
        wins = f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}]"
        cells = [study.name, words, _estimate(lead.mean, "+", 3), wins, p_value(adjusted)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def findings(studies: list[Measured]) -> str:
    """Whether MaPO's lead over Diffusion-DPO grows with the mismatch, and who is ahead where, in words."""
    first, last = studies[0], studies[-1]
    grown = first.statistics.measure_difference(_lead(last), _lead(first))
    direction = "grows" if grown.value > 0 else "shrinks"
    verdict = direction if measurable(grown.p_value(), LEVEL) else "does not measurably change"
    leads = ", ".join(
        f"{_estimate(study.difference('mapo', 'diffusion_dpo').mean, '+')} where it is {study.name}"
        for study in studies
    )
    change = _estimate(grown.estimate(1 - LEVEL), "+")
    sentences = [
        f"**MaPO's lead over Diffusion-DPO {verdict} with the mismatch** by the kept style: {leads}; from "
        f"{first.name} to {last.name} it changes by {change}."
    ]
    return " ".join([*sentences, *(_ahead(study) for study in studies)])


def _lead(study: Measured) -> MethodScores:
    """MaPO's scores minus Diffusion-DPO's, seed by seed and picture by picture."""
    return MethodScores(study.of("mapo").values - study.of("diffusion_dpo").values, SEEDS, (-1.0, 1.0))


def _ahead(study: Measured) -> str:
    """Who has most of the kept style, and which methods cannot be told from it or from the base."""
    means = {name: study.of(name).values.mean() for name in OBJECTIVES}
    best = max(means, key=means.get)
    close = [METHOD_NAMES[name] for name in means if name != best and not study.of_pairs[frozenset((best, name))]]
    changed = [name for name in means if study.of_base[name]]
    gained = [METHOD_NAMES[name] for name in changed if means[name] > study.of("base").values.mean()]
    lost = [METHOD_NAMES[name] for name in changed if METHOD_NAMES[name] not in gained]
    text = f"Where the style is {study.name}, {METHOD_NAMES[best]} has most of it ({means[best]:.2f}), "
    if len(close) == len(means) - 1:
        text += "not measurably more than any other method"
    else:
        text += f"not measurably more than {_joined(close)}" if close else "measurably more than every other method"
    text += f"; above the base: {_joined(gained)}" if gained else "; no method is measurably above the base"
    return text + (f"; below it: {_joined(lost)}." if lost else ".")


def _joined(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _estimate(found: Estimate, sign: str, digits: int = 2) -> str:
    shown = [f"{value:{sign}.{digits}f}" for value in (found.value, found.low, found.high) if value is not None]
    return f"{shown[0]} [{', '.join(shown[1:]) or chr(0x2013)}]"


def search_table() -> list[str]:
    rows = read(FOLDER / "search.csv")
    lines = [f"| trial | {' | '.join(MISMATCHES)} |", "|---|" + "---:|" * len(MISMATCHES)]
    for trial in dict.fromkeys(row["trial"] for row in rows):
        own = {row["mismatch"]: row for row in rows if row["trial"] == trial}
        cells = [f"**{own[name]['kept']}**" if own[name]["taken"] else own[name]["kept"] for name in MISMATCHES]
        lines.append(f"| {trial} | {' | '.join(cells)} |")
    return lines


def cost_table() -> list[str]:
    lines = [f"| method | {' | '.join(COST_HEADERS.values())} |", "|---|" + "---:|" * len(COST_HEADERS)]
    for row in read(FOLDER / "cost.csv"):
        cells = [row[header] for header in COST_HEADERS.values()]
        lines.append(f"| {METHOD_NAMES[row['method']]} | {' | '.join(cells)} |")
    return lines
