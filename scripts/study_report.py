"""docs/study.md, its pictures, and the study's part of README.md, from the study's three comparisons."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mapolab import files
from mapolab.evaluation.differences import Difference, compare
from mapolab.evaluation.statistics import MethodScores, PairedBootstrap
from mapolab.report.collect import collect
from mapolab.report.costs import COST_HEADERS, COSTS, cost_cell
from mapolab.report.names import METHOD_NAMES
from mapolab.report.runs import Method
from mapolab.report.tables import p_value
from study_plan import MISMATCHES, OBJECTIVES, SEARCH_SEED, SEEDS, STUDY, Trial

DOCS = Path("docs")
README_MARKS = "<!-- study: written by `make study` -->", "<!-- end of the study -->"
PICTURES = "Three test captions at each mismatch: the base's picture, then each method's, seed 0"
PICTURED = (0, 40, 80)
"""Test captions in the pictures."""


@dataclass(frozen=True)
class Searched:
    """A trial of the search. kept: mean style x concept x background on validation captions."""

    trial: Trial
    kept: float
    chosen: bool


@dataclass(frozen=True)
class Measured:
    """One mismatch. kept: the base's and each method's style x concept x background, picture by picture."""

    name: str
    style: str
    share: float
    distance: dict[str, float]
    frechet: float
    base: Method
    methods: dict[str, Method]
    kept: dict[str, MethodScores]
    bootstrap: PairedBootstrap

    def lead(self, scorer: str, better: str = "mapo", worse: str = "diffusion_dpo") -> Difference:
        """Of one method over another."""
        one, other = (self._scores(name, scorer) for name in (better, worse))
        return compare(self.bootstrap, one, other, scorer != "pixel_distance")

    def _scores(self, method: str, scorer: str) -> MethodScores:
        return self.kept[method] if scorer == "kept" else self.methods[method].scores(scorer)


def write_report(searched: dict[str, list[Searched]]) -> None:
    """Write docs/study.md, docs/study/*.csv, docs/study.webp and the part of README.md."""
    studies = [measure(mismatch) for mismatch in MISMATCHES]
    for study in studies:
        (DOCS / "study").mkdir(exist_ok=True)
        shutil.copyfile(STUDY / study.name / "comparison" / "summary.csv", DOCS / "study" / f"{study.name}.csv")
    draw_pictures(studies)
    told = findings(studies)
    template = Path(__file__).with_name("study_template.md").read_text(encoding="utf-8")
    text = template.format(
        answer="\n\n".join(["\n".join(result_table(studies)), told]),
        mismatches="\n".join(mismatch_table(studies)),
        leads="\n".join(lead_table(studies)),
        search="\n".join(search_table(searched)),
        search_seed=SEARCH_SEED,
        seeds=", ".join(map(str, SEEDS)),
        pictures=PICTURES,
        cost="\n".join(cost_table(studies)),
    )
    files.write_text(DOCS / "study.md", text)
    readme = Path("README.md").read_text(encoding="utf-8")
    short = "\n\n".join(["\n".join(kept_table(studies)), told, f"![{PICTURES}](docs/study.webp)"])
    before, rest = readme.split(README_MARKS[0])
    after = rest.split(README_MARKS[1])[1]
    files.write_text("README.md", f"{before}{README_MARKS[0]}\n\n{short}\n\n{README_MARKS[1]}{after}")


def measure(mismatch: str) -> Measured:
    style, share = MISMATCHES[mismatch]
    folders = [STUDY / mismatch / "runs" / f"{objective}-seed{seed}" for objective in OBJECTIVES for seed in SEEDS]
    base, methods = collect([str(folder) for folder in folders])
    named = {method.label.split()[0]: method for method in methods}
    data = methods[0].runs[0].manifest["data_fingerprint"][:12]
    [file] = (base.runs[0].folder / "mismatch").glob(f"{data}*-efficientnet_lite0.json")
    found = files.read_json(file)["chosen"]
    prompts = np.array([row["prompt"] for row in base.runs[0].pictures])
    kept = {name: _kept(method) for name, method in {"base": base, **named}.items()}
    distance = {key: found[key] for key in ("distance", "low", "high")}
    return Measured(
        mismatch, style, share, distance, found["frechet_distance"], base, named, kept, PairedBootstrap(prompts)
    )


def _kept(method: Method) -> MethodScores:
    values = np.prod([method.scores(name).values for name in ("style", "concept", "background")], axis=0)
    return MethodScores(values, method.seeds)


def mismatch_table(studies: list[Measured]) -> list[str]:
    lines = [
        "| mismatch | preferred style | its share in the base's pictures of these concepts | feature distance | "
        "Frechet distance |",
        "|---|---|---:|---:|---:|",
    ]
    for study in studies:
        low, high = study.distance["low"], study.distance["high"]
        distance = f"{study.distance['distance']:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(f"| {study.name} | {study.style} | {study.share:.0%} | {distance} | {study.frechet:.0f} |")
    return lines


def kept_table(studies: list[Measured]) -> list[str]:
    """The kept style alone: a row for each method, a column for each mismatch."""
    lines = [f"| style kept | {' | '.join(study.name for study in studies)} |", "|---|" + "---:|" * len(studies)]
    for name in ("base", *OBJECTIVES):
        means = [study.bootstrap.mean(study.kept[name]) for study in studies]
        cells = [f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]" for mean in means]
        lines.append(f"| {METHOD_NAMES[name]} | {' | '.join(cells)} |")
    return lines


def result_table(studies: list[Measured]) -> list[str]:
    """What each method made of the base, at each mismatch: the kept style, and what it is made of."""
    lines = [
        "| mismatch | method | style kept | style | concept | background | pixel distance |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for study in studies:
        for name, method in {"base": study.base, **study.methods}.items():
            kept = study.bootstrap.mean(study.kept[name])
            cells = [f"{kept.value:.2f} [{kept.low:.2f}, {kept.high:.2f}]"]
            cells += [f"{method.scores(scorer).values.mean():.2f}" for scorer in SCORERS]
            lines.append(f"| {study.name} | {METHOD_NAMES[name]} | {' | '.join(cells)} |")
    return lines


SCORERS = ("style", "concept", "background", "pixel_distance")


def lead_table(studies: list[Measured]) -> list[str]:
    lines = ["| mismatch | judged by | MaPO minus Diffusion-DPO | MaPO wins | p |", "|---|---|---:|---:|---:|"]
    for study in studies:
        for scorer, words in (("kept", "style kept"), *((name, name.replace("_", " ")) for name in SCORERS)):
            lead = study.lead(scorer)
            mean, wins = lead.mean, lead.win_rate
            lines.append(
                f"| {study.name} | {words} | {mean.value:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}] | "
                f"{wins.value:.0%} [{wins.low:.0%}, {wins.high:.0%}] | {p_value(lead.p_value)} |"
            )
    return lines


def findings(studies: list[Measured]) -> str:
    """Whether MaPO's lead over Diffusion-DPO grows with the mismatch, and who is ahead where, in words."""
    first, last = studies[0], studies[-1]
    grown = first.bootstrap.difference(_lead(last), _lead(first))
    verdict = "grows" if grown.low > 0 else "shrinks" if grown.high < 0 else "does not measurably change"
    leads = ", ".join(
        f"{lead.value:+.2f} [{lead.low:+.2f}, {lead.high:+.2f}] where it is {study.name}"
        for study in studies
        for lead in [study.lead("kept").mean]
    )
    sentences = [
        f"**MaPO's lead over Diffusion-DPO {verdict} with the mismatch** by the kept style: {leads}; from "
        f"{first.name} to {last.name} it changes by {grown.value:+.2f} [{grown.low:+.2f}, {grown.high:+.2f}]."
    ]
    return " ".join([*sentences, *(_ahead(study) for study in studies)])


def _lead(study: Measured) -> MethodScores:
    """MaPO's scores minus Diffusion-DPO's, seed by seed and picture by picture."""
    return MethodScores(study.kept["mapo"].values - study.kept["diffusion_dpo"].values, study.kept["mapo"].seeds)


def _ahead(study: Measured) -> str:
    """Who has most of the kept style, and which methods cannot be told from it or from the base."""
    means = {name: scores.values.mean() for name, scores in study.kept.items() if name != "base"}
    best = max(means, key=means.get)

    def differs(one: str, other: str) -> bool:
        return study.bootstrap.difference(study.kept[one], study.kept[other]).excludes(0)

    close = [METHOD_NAMES[name] for name in means if name != best and not differs(best, name)]
    changed = [name for name in means if differs(name, "base")]
    gained = [METHOD_NAMES[name] for name in changed if means[name] > study.kept["base"].values.mean()]
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


def search_table(searched: dict[str, list[Searched]]) -> list[str]:
    names = list(searched)
    lines = [f"| trial | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for row in zip(*searched.values(), strict=True):
        cells = [f"**{one.kept:.3f}**" if one.chosen else f"{one.kept:.3f}" for one in row]
        lines.append(f"| {row[0].trial.name} | {' | '.join(cells)} |")
    return lines


def cost_table(studies: list[Measured]) -> list[str]:
    """Of the largest mismatch's runs; those of the others are as long."""
    lines = [f"| method | {' | '.join(COST_HEADERS.values())} |", "|---|" + "---:|" * len(COST_HEADERS)]
    for name, method in studies[-1].methods.items():
        lines.append(f"| {METHOD_NAMES[name]} | {' | '.join(cost_cell(method, field) for field in COSTS)} |")
    return lines


def draw_pictures(studies: list[Measured]) -> None:
    """docs/study.webp: three test captions at each mismatch, the base's picture first, then each method's of seed 0."""
    size, left, top = 96, 92, 22
    names = ["base", *OBJECTIVES]
    sheet = Image.new("RGB", (left + size * len(names), top + size * len(PICTURED) * len(studies)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        pen.text((left + size * column + 3, 5), METHOD_NAMES[name].partition(" program")[0].replace("(", ""), "black")
    for number, study in enumerate(studies):
        for line, index in enumerate(PICTURED):
            y = top + size * (number * len(PICTURED) + line)
            caption = study.base.runs[0].pictures[index]["prompt"]
            pen.multiline_text((3, y + 8), f"{study.name}\n\n" + _wrapped(caption), "black")
            for column, name in enumerate(names):
                run = study.base.runs[0] if name == "base" else study.methods[name].runs[0]
                with Image.open(run.evaluation / run.pictures[index]["image"]) as picture:
                    enlarged = picture.convert("RGB").resize((size, size), Image.Resampling.NEAREST)
                    sheet.paste(enlarged, (left + size * column, y))
    sheet.save(DOCS / "study.webp", quality=85)


def _wrapped(text: str) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 14:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
