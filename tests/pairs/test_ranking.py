"""Preferences from scores, by hand."""

import pytest

from mapolab.pairs.ranking import best_against_worst, every_pair, gap_weights, majority, soft_label


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


def test_weights_follow_the_gaps_with_mean_one() -> None:
    assert gap_weights([1.0, 3.0, -2.0, 0.0]) == [1.0, 3.0, 0.0, 0.0]
    assert gap_weights([2.0, 6.0]) == [0.5, 1.5]
    assert gap_weights([-1.0, 0.0]) == [1.0, 1.0]
