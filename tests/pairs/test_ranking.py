"""Preferences from scores, by hand."""

import math

import pytest

from mapolab.errors import UserError
from mapolab.pairs.ranking import best_against_worst, every_pair, gap_weights, label_scale, majority, soft_label


def test_a_majority_is_counted_without_those_who_see_no_difference() -> None:
    assert majority([3, 1, 1], [2, 2, 0]) == 1
    assert majority([3, 1, 1], [4, 2, 2]) == 0
    assert majority([3, 1], [2, 2]) == 0.5
    assert majority([3, 1, 5], [2, 2, 5]) == 0.5
    assert majority([1, 1, 1], [1, 1, 0]) == 1


def test_one_scorer_ranks_by_its_scores() -> None:
    assert best_against_worst([[2.0], [5.0], [1.0], [3.0]]) == (1, 2, 1.0)
    assert best_against_worst([[2.0], [2.0]]) == (0, 1, 0.5)
    assert every_pair([[2.0], [5.0], [2.0]]) == [(1, 0, 1.0), (0, 2, 0.5), (1, 2, 1.0)]


def test_several_scorers_rank_by_their_majorities() -> None:
    # The first picture beats both others 2 : 1, the second one beats the third 3 : 0.
    assert best_against_worst([[9, 9, 0], [5, 5, 5], [1, 1, 1]]) == (0, 2, 1.0)
    # Two scorers that contradict each other everywhere leave a tie.
    assert best_against_worst([[1, 3], [2, 2], [3, 1]]) == (0, 2, 0.5)


def test_a_circle_of_majorities_is_a_tie_between_first_and_last() -> None:
    # Condorcet's circle: each wins once; the first beats the second, the second the third, and the third the first.
    circle = [[3, 1, 2], [2, 3, 1], [1, 2, 3]]
    assert best_against_worst(circle) == (0, 2, 0.5)
    assert every_pair(circle) == [(0, 1, 1.0), (2, 0, 1.0), (1, 2, 1.0)]


def test_soft_labels_are_the_softmax_of_two_scores() -> None:
    assert soft_label(0.0, 1.0) == 0.5
    assert soft_label(1.0, 1.0) == pytest.approx(0.7310585786300049, abs=1e-15)
    assert soft_label(-0.5, 2.0) == pytest.approx(1 - 0.7310585786300049, abs=1e-15)
    assert soft_label(-1e6, 1.0) == 0.0 and soft_label(1e6, 1.0) == 1.0


def test_smpos_labels_are_those_of_its_program() -> None:
    # Cosines of 0.2245 and 0.2105 by its min-max normalisation, (c - 0.11543526500463486) / 0.1665804460644722, are
    # 0.65470 and 0.57066; their softmax at temperature 1:
    cosines = 0.2245, 0.2105
    first, second = (math.exp((cosine - 0.11543526500463486) / 0.1665804460644722) for cosine in cosines)
    assert first / (first + second) == pytest.approx(0.520998, abs=1e-6)
    scores = [100 * cosine for cosine in cosines]  # our unit
    scale = label_scale("soft", "auto", ["pickscore"])
    assert soft_label(scores[0] - scores[1], scale) == pytest.approx(first / (first + second), abs=1e-12)
    assert 1 / scale == pytest.approx(16.658, abs=1e-3)  # times softer than PickScore's own softmax
    assert label_scale("soft", "auto", [{"_target_": "pickscore", "weights": "w"}, "aesthetic"]) == scale


def test_a_scale_is_given_or_published() -> None:
    assert label_scale("soft", 1.0, ["pickscore"]) == 1.0 and label_scale("soft", 5, ["style"]) == 5.0
    assert label_scale("hard", "auto", None) == 1.0  # unused, as the manifests of all versions have it
    with pytest.raises(UserError, match=r"labels=soft by style needs label_scale: .* such as label_scale=5; only for"):
        label_scale("soft", "auto", ["style", "pickscore"])
    for wrong in ("some", 0, -1.0, math.nan, math.inf, True, None):
        with pytest.raises(UserError, match=f"label_scale is {wrong}; give a number above 0, or auto"):
            label_scale("soft", wrong, ["pickscore"])


def test_weights_follow_the_gaps_with_mean_one() -> None:
    assert gap_weights([1.0, 3.0, -2.0, 0.0]) == [1.0, 3.0, 0.0, 0.0]
    assert gap_weights([2.0, 6.0]) == [0.5, 1.5]
    assert gap_weights([-1.0, 0.0]) == [1.0, 1.0]
