"""A difference from the base is called one only where it stands after Holm's correction over all that are shown."""

import csv
import inspect

import pytest

from mapolab.reading import read_rows
from mapolab.report.collect import collect
from mapolab.report.summary import compare_methods

# Mean difference from the base in standard deviations of the prompts' differences, for 12 prompts; others: 0.
EFFECTS = {("diffusion_dpo", "style"): 4.0, ("sft", "style"): 0.8, ("mapo", "concept"): 0.73}


def rewrite(folder, effects: dict[str, float]) -> None:
    """Scores that differ from the base's by that, one prompt up and the next one down."""
    file = next(folder.glob("evaluation/*/scores.csv"))
    rows = read_rows(file)
    for index, row in enumerate(rows):
        for scorer in ("style", "concept", "pixel_distance"):
            row[scorer] = 0.5 + 0.01 * (index % 3) + (0.01 * (effects[scorer] + (-1) ** index) if effects else 0.0)
    with open(file, "w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_what_only_stands_uncorrected_is_the_same(three_methods) -> None:
    for folder in three_methods.root.iterdir():
        name = folder.name.split("-")[0]
        scorers = ("style", "concept", "pixel_distance")
        rewrite(folder, {} if name == "base" else {scorer: EFFECTS.get((name, scorer), 0.0) for scorer in scorers})
    settings = {"samples": 200, "confidence": 0.95, "seed": 0}
    known = inspect.signature(compare_methods).parameters
    given = {name: value for name, value in settings.items() if name in known}
    scores = {score.name: score for score in compare_methods(*collect("outputs/emoji_style/*"), **given).scores}
    label = {one.split()[0]: one for one in scores["style"].against}

    def raw(method: str, scorer: str) -> float:
        return scores[scorer].against[label[method]]["base"].p_value

    def adjusted(method: str, scorer: str) -> float:
        return scores[scorer].p_adjusted[label[method]]

    # Three methods and three scorers are nine: the least p times 9, the next times 8, then 7, none below one before it.
    clear, second, third = (raw(*pair) for pair in EFFECTS)
    assert clear < 1e-4 and 0.05 / 8 < second < third < 0.05
    assert adjusted("diffusion_dpo", "style") == pytest.approx(9 * clear)
    assert adjusted("sft", "style") == pytest.approx(8 * second)
    assert adjusted("mapo", "concept") == pytest.approx(max(8 * second, 7 * third))
    assert adjusted("sft", "concept") == 1
    verdicts = {(method, scorer): scores[scorer].verdict(label[method]) for method, scorer in EFFECTS}
    assert verdicts == {one: "better" if one[0] == "diffusion_dpo" else "same" for one in EFFECTS}
