"""docs/study_tasks.md and its pictures, from the kept scores: whatever is there, with the number of seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from textwrap import fill

import numpy as np
from PIL import Image, ImageDraw

from mapolab import files
from mapolab.evaluation.differences import compare, holm, measurable
from mapolab.evaluation.intervals import Estimate
from mapolab.evaluation.statistics import MINIMUM, MethodScores, PairedStatistics
from mapolab.pictures import load_picture
from mapolab.report.names import METHOD_NAMES
from study_tasks_plan import METHODS, SEARCH_SEED, SEEDS, TASKS, TRIALS, Trial, search_trials
from study_tasks_scores import FOLDER, Scores

DOCS = Path("docs")
MARKS = (
    "<!-- study of the tasks: written by `make study-tasks` -->",
    "<!-- end of the study of the tasks -->",
)  # of docs/methods.md
TITLES = {
    "general": "General alignment",
    "safety": "Safety",
    "style": "Style",
    "culture": "Culture",
    "personalization": "Personalization",
}
PICTURED = 4  # prompts in a wall
LEVEL = 0.05
COSTS = ("training", "peak memory")


@dataclass(frozen=True)
class TaskResult:
    """What is kept of a task: each method's final runs, as many as there are."""

    name: str
    scores: Scores

    @cached_property
    def base(self) -> Trial:
        return Trial(self.name, "base", 0.0, 0, search=False)

    @cached_property
    def runs(self) -> dict[str, list[Trial]]:
        best = {method: self.scores.best(search_trials(self.name, method)) for method in METHODS}
        trials = {
            method: [replace(trial, seed=seed, search=False) for seed in SEEDS]
            for method, trial in best.items()
            if trial is not None
        }
        done = {method: [trial for trial in several if self.scores.has(trial)] for method, several in trials.items()}
        return {method: several for method, several in done.items() if several}

    @cached_property
    def worth(self) -> dict[str, MethodScores]:
        return {"base": self.scores.method([self.base])} | {
            method: self.scores.method(several) for method, several in self.runs.items()
        }

    @cached_property
    def statistics(self) -> PairedStatistics:
        return self.scores.statistics(self.base)

    def mean(self, method: str) -> Estimate:
        return self.statistics.mean(self.worth[method])

    def wins(self, method: str) -> Estimate:
        """The share of pictures that are worth more than the base's, ties as half."""
        return self.statistics.win_rate(self.worth[method], self.worth["base"], higher_is_better=True)

    @cached_property
    def of_base(self) -> dict[str, float | None]:
        """p-values of the differences from the base, by Holm over all methods."""
        found = {name: self._p_value(name, "base") for name in self.runs}
        return dict(zip(found, holm(list(found.values())), strict=True))

    @cached_property
    def of_pairs(self) -> dict[frozenset[str], float | None]:
        """p-values of any two methods' difference, by Holm over all pairs."""
        found = {frozenset(pair): self._p_value(*pair) for pair in combinations(self.worth, 2)}
        return dict(zip(found, holm(list(found.values())), strict=True))

    def _p_value(self, one: str, other: str) -> float | None:
        return self.statistics.measure_difference(self.worth[one], self.worth[other]).p_value()

    def found_from(self, method: str) -> float | None:
        """The smallest difference from the base that a study like this finds in four of five cases."""
        return compare(self.statistics, self.worth[method], self.worth["base"], True, len(self.runs)).detectable

    def part(self, method: str, column: str, category: str) -> float:
        """The mean of a scorer's column over the runs, on one category of prompts."""
        several = [self.base] if method == "base" else self.runs[method]
        return float(np.mean([self.scores.column(trial, column, category).mean() for trial in several]))

    def cost(self, method: str, figure: str) -> float:
        return float(np.mean([float(self.scores.costs[trial.name][figure]) for trial in self.runs[method]]))


def write_report() -> None:
    """Write docs/study_tasks.md and a wall of pictures for each task whose runs are here."""
    results = [TaskResult(name, Scores(name)) for name in TASKS]
    results = [result for result in results if result.scores.has(result.base) and result.runs]
    for result in results:
        draw_wall(result)
    remarks = _remarks()
    sections = [section(result, remarks.get(result.name, "")) for result in results]
    template = Path(__file__).with_name("study_tasks_template.md").read_text(encoding="utf-8")
    table_of_all = "\n".join(overview(results))
    text = template.format(
        missing=_missing([result.name for result in results]),
        overview=f"{table_of_all}\n\n{remarks.get('overall', '')}".strip(),
        sections="\n\n".join(sections),
        search="\n".join(search_table(results)),
        search_seed=SEARCH_SEED,
        seeds=", ".join(map(str, SEEDS)),
    )
    files.write_text(DOCS / "study_tasks.md", text)
    methods = (DOCS / "methods.md").read_text(encoding="utf-8")
    before, rest = methods.split(MARKS[0])
    files.write_text(
        DOCS / "methods.md", f"{before}{MARKS[0]}\n\n{table_of_all}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}"
    )


def overview(results: list[TaskResult]) -> list[str]:
    """Every method's worth on every task."""
    lines = [
        f"| worth, 0 to 1 | {' | '.join(TITLES[result.name].lower() for result in results)} |",
        "|---|" + "---:|" * len(results),
    ]
    for method in ("base", *METHODS):
        cells = [_estimate(result.mean(method)) if method in result.worth else "" for result in results]
        lines.append(f"| {METHOD_NAMES[method]} | {' | '.join(cells)} |")
    return lines


def section(result: TaskResult, remark: str) -> str:
    """A task's table, what it says in words, the remarks of who looked at the pictures, and the pictures."""
    title = TITLES[result.name]
    wall = f"![{title}: test prompts down, the base and every method across, seed 0](study/{result.name}.webp)"
    parts = [f"## {title}", "\n".join(table(result)), told(result), remark, wall]
    return "\n\n".join(part for part in parts if part)


def table(result: TaskResult) -> list[str]:
    kept = TASKS[result.name].kept
    parts = [(category, column) for category, columns in kept.items() for column in columns]
    heads = [f"{category} {column}".strip().replace("_", " ") for category, column in parts]
    lines = [
        f"| {' | '.join(['method', 'rate, strength', 'seeds', 'worth', 'found from', 'wins', *heads, *COSTS])} |",
        "|---|---:|---:|---:|---:|---:|" + "---:|" * (len(heads) + len(COSTS)),
    ]
    for method in result.worth:
        shown = [f"{result.part(method, column, category):.2f}" for category, column in parts]
        if method == "base":
            about, wins, found_from, cost = ["", ""], "", "", ["", ""]
        else:
            first = result.runs[method][0]
            chosen = f"{first.rate:g}" + ("" if first.strength is None else f", {first.strength:g}")
            about, wins = [chosen, str(len(result.runs[method]))], _estimate(result.wins(method))
            size = result.found_from(method)
            found_from = "\N{EN DASH}" if size is None else f"{size:.2g}"
            cost = [f"{result.cost(method, 'wall_seconds'):.0f} s", f"{result.cost(method, 'peak_memory_gib'):.2f} GiB"]
        cells = [METHOD_NAMES[method], *about, _estimate(result.mean(method)), found_from, wins, *shown, *cost]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def told(result: TaskResult) -> str:
    """Who is ahead, who cannot be told from that, who is measurably above or below the base."""
    means = {name: result.mean(name).value for name in result.worth if name != "base"}
    best = max(means, key=means.get)
    clusters = result.statistics.clusters
    if clusters < MINIMUM:
        return (
            f"{METHOD_NAMES[best]} has the most ({means[best]:.2f}). The captions make {clusters} clusters, of which "
            f"{MINIMUM} are the least for an interval or a test: nothing here is called measurable."
        )
    close = [
        METHOD_NAMES[name]
        for name in means
        if name != best and not measurable(result.of_pairs[frozenset((name, best))], LEVEL)
    ]
    changed = [name for name in means if measurable(result.of_base[name], LEVEL)]
    above = [METHOD_NAMES[name] for name in changed if means[name] > result.mean("base").value]
    below = [METHOD_NAMES[name] for name in changed if METHOD_NAMES[name] not in above]
    text = f"{METHOD_NAMES[best]} has the most ({means[best]:.2f}), "
    text += f"not measurably more than {_joined(close)}. " if close else "measurably more than every other method. "
    text += f"Measurably above the base: {_joined(above) or 'none'}; below it: {_joined(below) or 'none'}."
    return text


def search_table(results: list[TaskResult]) -> list[str]:
    lines = [f"| trial | {' | '.join(result.name for result in results)} |", "|---|" + "---:|" * len(results)]
    for method in METHODS:
        for number in range(len(TRIALS[method])):
            cells = []
            for result in results:
                trials = search_trials(result.name, method)
                trial, best = trials[number], result.scores.best(trials)
                value = f"{result.scores.worth(trial).mean():.3f}" if result.scores.has(trial) else ""
                cells.append(f"**{value}**" if trial == best else value)
            lines.append(f"| {trials[number].name.removeprefix('search-')} | {' | '.join(cells)} |")
    return lines


def draw_wall(result: TaskResult) -> None:
    """docs/study/<task>.webp, where the pictures of the base and of each method's first seed are here."""
    columns = {"base": result.base} | {method: several[0] for method, several in result.runs.items()}
    if not all((trial.folder / "run.json").is_file() for trial in columns.values()):
        return
    runs = {method: files.read_json(trial.folder / "run.json") for method, trial in columns.items()}
    rows = _pictured(runs["base"]["rows"])
    size, left, top = 80, 96, 30
    sheet = Image.new("RGB", (left + size * len(columns), top + size * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for line, index in enumerate(rows):
        pen.multiline_text((3, top + size * line + 6), fill(runs["base"]["rows"][index]["prompt"], 15), "black")
    for column, (method, run) in enumerate(runs.items()):
        heading = METHOD_NAMES[method].replace("(reference program)", "program")
        pen.multiline_text((left + size * column + 3, 3), fill(heading, 12), "black")
        for line, index in enumerate(rows):
            y = top + size * line
            picture = load_picture(run["pictures"][index], "Evaluate its run again.")
            enlarged = picture.resize((size - 2, size - 2), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + size * column, y))
    sheet.save(FOLDER / f"{result.name}.webp", quality=85)


def _pictured(rows: list[dict[str, str]]) -> list[int]:
    """Pictures spread over the prompts, as many of each category."""
    categories = list(dict.fromkeys(row.get("category", "") for row in rows))
    share = PICTURED // len(categories)
    found = []
    for category in categories:
        own = [index for index, row in enumerate(rows) if row.get("category", "") == category]
        found += [own[len(own) * number // share] for number in range(share)]
    return found


def _missing(done: list[str]) -> str:
    """What is still to be run, in bold; nothing where all is there."""
    left = [TITLES[name].lower() for name in TASKS if name not in done]
    return f"**Not run yet: {_joined(left)}.** `make study-tasks` goes on with them.\n\n" if left else ""


def _remarks() -> dict[str, str]:
    """What a person saw in the pictures, by task: `## task` headings of study_tasks_remarks.md."""
    text = Path(__file__).with_name("study_tasks_remarks.md").read_text(encoding="utf-8")
    parts = text.split("## ")[1:]
    return {part.split("\n", 1)[0].strip(): part.split("\n", 1)[1].strip() for part in parts}


def _estimate(found: Estimate) -> str:
    interval = f"{found.low:.2f}, {found.high:.2f}" if found.known else "\N{EN DASH}"
    return f"{found.value:.2f} [{interval}]"


def _joined(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
