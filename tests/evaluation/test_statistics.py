"""Intervals contain their value and hold the truth, p is where they end, and nothing is said of what shows nothing."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from mapolab.errors import UserError
from mapolab.evaluation.differences import clusters_needed, compare, detectable, holm, measurable
from mapolab.evaluation.intervals import NO_SPREAD, TOO_FEW, Estimate, Part, Spread
from mapolab.evaluation.statistics import MINIMUM, MethodScores, PairedStatistics


def scores(values, bounds=(-math.inf, math.inf)) -> MethodScores:
    """One training seed for each row."""
    rows = np.atleast_2d(np.asarray(values, dtype=float))
    return MethodScores(rows, tuple(range(len(rows))), bounds)


@pytest.fixture(scope="module")
def simulation():
    """scripts/coverage.py, whose tables are in docs/evaluation.md."""
    spec = importlib.util.spec_from_file_location("coverage_script", Path(__file__).parents[2] / "scripts/coverage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


# 400 simulations tell 95% to about one point: two points as promised, and two of these.
@pytest.mark.parametrize("kind", ["normal", "skewed", "floor"])
@pytest.mark.parametrize(("prompts", "clusters", "seeds"), [(12, 12, 1), (32, 8, 3), (96, 12, 5), (96, 12, 1)])
def test_intervals_hold_the_truth_as_often_as_they_say(simulation, prompts, clusters, seeds, kind) -> None:
    found = simulation.coverage(simulation.Design(prompts, clusters, seeds, kind), 400)
    low = {name: share for name, share in found.items() if share < 0.91}
    assert not low, found
    # Wider than need be only where there are ties, or few clusters for a share.
    assert found["mean"] < 0.99 and (kind == "floor" or found["median"] < 0.99)


def test_captions_of_one_concept_are_no_independent_evidence(simulation, monkeypatch) -> None:
    """By caption, the same studies claim far too much."""
    design = simulation.Design(96, 12, 1, "normal")
    by_caption = PairedStatistics(np.arange(96))
    monkeypatch.setattr(simulation.Design, "statistics", lambda self: by_caption)
    assert simulation.coverage(design, 200)["mean"] < 0.8


def test_hardly_any_study_claims_a_difference_where_there_is_none(simulation) -> None:
    alone, corrected = simulation.false_claims(simulation.Design(32, 8, 3, "normal"), 30)
    assert alone > 0.4 and corrected <= 0.1


@pytest.mark.parametrize(("clusters", "seeds"), [(24, 5), (24, 3), (40, 1)])
def test_power_is_what_it_is_said_to_be(simulation, clusters: int, seeds: int) -> None:
    true = simulation.spread(clusters, seeds)
    assert simulation.power(clusters, seeds, detectable(true, 0.05), 2500) == pytest.approx(0.8, abs=0.025)
    needed = clusters_needed(0.45, true, 0.05)
    assert 0.775 < simulation.power(needed, seeds, 0.45, 2500) < 0.86
    # As many clusters find from there on what was sought.
    assert (
        detectable(simulation.spread(needed, seeds), 0.05)
        <= 0.45
        < detectable(simulation.spread(needed - 1, seeds), 0.05)
    )


def test_what_could_be_found_is_told_at_holms_strictest_step() -> None:
    random = np.random.default_rng(9)
    method, base = scores(random.normal(0.3, 1, 40), (-9, 9)), scores(np.zeros(40), (-9, 9))
    one, of_many = (compare(PairedStatistics(np.arange(40)), method, base, True, compared) for compared in (1, 52))
    assert of_many.detectable == pytest.approx(detectable(one.spread, 0.05 / 52))
    assert of_many.detectable > 1.4 * one.detectable
    assert of_many.clusters_needed > 1.5 * one.clusters_needed and of_many.p_value == one.p_value
    # A score that cannot differ by so much.
    narrow = [scores(one.values / 100, (-0.001, 0.001)) for one in (method, base)]
    assert compare(PairedStatistics(np.arange(40)), *narrow, True).detectable is None


def test_no_number_of_prompts_outweighs_seeds_that_differ_too_much() -> None:
    seeds = Spread(Part(0.01, 19), Part(0.04, 2), 0.0)
    assert clusters_needed(0.3, seeds, 0.05) is None and detectable(seeds, 0.05) > 0.8
    assert clusters_needed(0.0, Spread(Part(0.01, 19), Part(0.0, 0), 0.0), 0.05) is None


def test_without_skewness_and_seeds_it_is_students_t() -> None:
    half = np.random.default_rng(0).normal(size=10)
    values = 0.3 + np.concatenate([half, -half])
    found = compare(PairedStatistics(np.arange(20)), scores(values), scores(np.zeros(20)), True)
    theirs = stats.ttest_1samp(values, 0)
    assert (found.mean.low, found.mean.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-6)
    assert found.effect_size == pytest.approx(0.3 / values.std(ddof=1))


def test_where_only_seeds_differ_it_is_their_t() -> None:
    values = np.repeat([[0.2], [0.5], [0.6], [0.9], [0.3]], 12, axis=1)
    found = PairedStatistics(np.arange(12)).mean(scores(values))
    assert (found.low, found.high) == pytest.approx(tuple(stats.ttest_1samp(values[:, 0], 0).confidence_interval()))


def test_what_varies_is_told_apart_and_put_together() -> None:
    """Seeds, clusters and both together by sums of squares; Howe's and Satterthwaite's t in the middle."""
    random = np.random.default_rng(2)
    table = random.normal(size=(3, 1)) + random.normal(size=(3, 8)) + np.array([1, -1, 2, -2, 3, -3, 4, -4.0])
    found = PairedStatistics(np.arange(8)).measure_difference(scores(table), MethodScores(np.zeros((1, 8)), (None,)))
    together = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    shared = (together**2).sum() / 14 / 24
    clusters, seeds = table.mean(0).var(ddof=1) / 8, table.mean(1).var(ddof=1) / 3
    assert found.spread.shared == pytest.approx(shared)
    assert (found.spread.clusters.variance, found.spread.clusters.freedom) == pytest.approx((clusters, 7))
    assert (found.spread.seeds.variance, found.spread.seeds.freedom) == pytest.approx((seeds, 2))
    assert found.spread.variance == pytest.approx(clusters + seeds - shared)
    clusters, seeds = clusters - shared / 2, seeds - shared / 2
    freedom = (clusters + seeds) ** 2 / (clusters**2 / 7 + seeds**2 / 2)
    t = {name: special.stdtrit(value, 0.975) ** 2 for name, value in (("c", 7), ("s", 2), ("both", freedom))}
    assert found.spread.squares(0.975) == pytest.approx(
        (clusters * (t["c"] + t["both"]) / 2, seeds * (t["s"] + t["both"]) / 2)
    )


def test_two_methods_seeds_have_welchs_degrees_of_freedom() -> None:
    shifts = np.array([[0.1], [0.4], [1.0]]), np.array([[0.2], [0.9]])
    method, other = (np.repeat(shift, 8, axis=1) for shift in shifts)
    found = (
        PairedStatistics(np.arange(8)).measure_difference(scores(method), MethodScores(other, (10, 11))).spread.seeds
    )
    welch = stats.ttest_ind(shifts[0][:, 0], shifts[1][:, 0], equal_var=False)
    assert found.freedom == pytest.approx(welch.df)
    assert found.variance == pytest.approx(shifts[0].var(ddof=1) / 3 + shifts[1].var(ddof=1) / 2)


def test_methods_of_the_same_seeds_are_paired_by_them() -> None:
    """What a seed does to both cancels."""
    shift = np.array([[0.0], [3.0], [7.0]])
    random = np.random.default_rng(7)
    method, other = shift + random.normal(size=12), shift + random.normal(size=12)
    statistics = PairedStatistics(np.arange(12))
    assert statistics.measure_difference(scores(method), scores(other)).spread.seeds.variance == 0
    assert statistics.measure_difference(scores(method), MethodScores(other, (7, 8, 9))).spread.seeds.variance > 8


def test_a_win_rate_over_seeds_adds_what_they_add() -> None:
    random = np.random.default_rng(1)
    shifts = np.array([[0.5], [0.2], [0.1]])
    method, base = scores(random.normal(shifts, 1, (3, 20))), scores(random.normal(size=20))
    found = PairedStatistics(np.arange(20)).measure_win_rate(method, base, True)
    clusters, seeds = found.spread.squares(0.975)
    variance, value = found.spread.clusters.variance, found.value
    ratio = clusters / variance * (variance + 0.03 / 20**2) / (value * (1 - value) + 0.03 / 20)
    middle = (value + ratio / 2) / (1 + ratio)
    reach = math.sqrt(ratio * middle * (1 - middle) / (1 + ratio) + seeds)
    assert seeds > 0.001 and middle - reach > 0 and middle + reach < 1
    assert found.limits(0.05) == pytest.approx((middle - reach, middle + reach))


def test_clusters_of_unequal_size_weigh_by_their_pictures() -> None:
    sizes, means = np.array([1, 2, 3, 4, 5, 6, 7]), np.array([0.3, -1.0, 2.0, 0.1, 0.5, -0.7, 1.1])
    clusters = np.repeat(np.arange(7), sizes)
    found = PairedStatistics(np.arange(28), clusters).measure_difference(
        scores(means[clusters]), MethodScores(np.zeros((1, 28)), (None,))
    )
    weights = sizes / 28
    value = weights @ means
    # Unbiased where the means of clusters vary alike.
    contrast = np.eye(7) - weights
    scale = (weights**2).sum() / np.trace(np.diag(weights**2) @ contrast @ contrast.T)
    assert found.value == pytest.approx(value)
    assert found.spread.clusters.variance == pytest.approx(scale * ((weights * (means - value)) ** 2).sum())
    assert found.spread.clusters.freedom == pytest.approx(1 / (weights**2).sum() - 1)


def test_a_skewed_sample_has_its_longer_arm_where_the_truth_may_be() -> None:
    values = np.random.default_rng(1).exponential(size=20)
    found = PairedStatistics(np.arange(20)).mean(scores(values))
    plain = stats.ttest_1samp(values, 0).confidence_interval()
    assert found.low == pytest.approx(plain.low)
    # Hall's transformation at the skewness of the mean, G1 / sqrt(n), upwards.
    skewness, t = stats.skew(values, bias=False) / math.sqrt(20), special.stdtrit(19, 0.975)
    hall = 3 / -skewness * (np.cbrt(1 - skewness * (t + skewness / 6)) - 1)
    assert (found.high - found.value) / (plain.high - found.value) == pytest.approx(hall / t) and hall > 1.2 * t


@pytest.mark.parametrize("kind", ["skewed", "floor", "normal"])
def test_p_is_the_level_at_which_the_interval_ends(simulation, kind: str) -> None:
    random = np.random.default_rng(5)
    for clusters, seeds in ((12, 1), (12, 3), (6, 5)) * 40:
        design = simulation.Design(24, clusters, seeds, kind)
        method, base = design.draw(random, gain=0.3)
        found = compare(design.statistics(), method, base, True)
        assert found.mean.excludes(0) == (found.p_value < 0.05) and found.win_rate.excludes(0.5) == (
            found.p_value_wins < 0.05
        )
        at = PairedStatistics(np.arange(24), design._of_prompt(), confidence=1 - found.p_value)
        if 1e-6 < found.p_value < 0.9:
            ends = at.difference(method, base)
            assert min(abs(ends.low), abs(ends.high)) == pytest.approx(0, abs=1e-6)


def awkward(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, prompts and clusters as no one would draw them."""
    count, seeds = int(random.integers(1, 40)), int(random.integers(1, 6))
    kind = random.integers(6)
    values = random.normal(size=(seeds, count)) if kind else np.full((seeds, count), 0.1 + 0.2)
    if kind == 1:
        values = np.where(random.random((seeds, 1)) < 0.3, 0.0, np.ones((seeds, count)))
    if kind == 2:
        values = 1e6 + 1e-9 * values
    if kind == 3:
        values = np.where(random.random((seeds, count)) < 0.05, 1.0, 0.0)
    if kind == 4:
        values = np.exp(3 * values)
    prompts = np.arange(count) // int(random.integers(1, 4))
    return values, prompts, prompts // int(random.integers(1, 9))


def test_intervals_contain_their_value_whatever_comes() -> None:
    random = np.random.default_rng(8)
    unknown = 0
    for _ in range(400):
        values, prompts, clusters = awkward(random)
        other = np.where(random.random(values.shape) < 0.5, values, values.mean())[: 1 + len(values) // 2]
        bounds = (float(min(values.min(), other.min())), float(max(values.max(), other.max())))
        statistics = PairedStatistics(prompts, clusters)
        found = compare(statistics, scores(values, bounds), scores(other, bounds), True)
        for estimate in (statistics.mean(scores(values, bounds)), found.mean, found.median, found.win_rate):
            if estimate.known:
                assert estimate.low <= estimate.value <= estimate.high and math.isfinite(estimate.high - estimate.low)
                assert estimate.why is None
            else:
                unknown += 1
                assert estimate.why in (NO_SPREAD, TOO_FEW)
                assert estimate.why == TOO_FEW or statistics.clusters >= MINIMUM
        assert found.win_rate.low is None or 0 <= found.win_rate.low <= found.win_rate.high <= 1
        assert found.wins + found.ties + found.losses == pytest.approx(1)
        told = (found.p_value, found.effect_size, found.detectable, found.clusters_needed)
        assert found.p_value is not None if found.why is None else told == (None,) * 4
    assert unknown > 100


def test_a_seed_that_collapsed_leaves_an_interval_around_its_mean() -> None:
    values = np.ones((5, 12))
    values[3] = 0
    found = PairedStatistics(np.arange(12)).mean(scores(values, (0, 1)))
    assert found.value == pytest.approx(0.8) and found.low < 0.5 and found.high == 1
    again = PairedStatistics(np.arange(12)).mean(scores(np.where(values, 0.9, 0.1), (0, 1)))
    assert again.value == pytest.approx(0.74) and again.low < 0.4 and again.high == 1


@pytest.mark.parametrize("shift", [0.0, 0.3, 1e5])
def test_what_does_not_vary_is_no_evidence(shift: float) -> None:
    """Not even by the last bits: 0.1 + 0.2 is not 0.3."""
    base = np.tile([0.1, 0.2, 0.7], 10)
    noisy = (base + 0.1 + 0.2) - 0.3 + shift
    found = compare(PairedStatistics(np.arange(30)), scores([noisy, noisy]), scores(base), True)
    assert found.why == NO_SPREAD and found.mean == Estimate(found.mean.value, None, None, NO_SPREAD)
    assert found.p_value is None and found.effect_size is None and found.clusters_needed is None
    assert found.mean.value == pytest.approx(shift, abs=1e-9) and (found.ties == 1) == (shift == 0)
    assert not found.mean.excludes(12345)


@pytest.mark.parametrize("clusters", [1, 2, 5])
def test_too_few_clusters_show_nothing(clusters: int) -> None:
    random = np.random.default_rng(3)
    statistics = PairedStatistics(np.arange(40), np.arange(40) % clusters)
    found = compare(statistics, scores(5 + random.normal(size=(3, 40))), scores(random.normal(size=40)), True)
    estimates = [found.mean, found.median, found.win_rate, statistics.mean(scores(random.normal(size=40)))]
    assert all(not estimate.known and estimate.why == TOO_FEW for estimate in estimates)
    told = (found.p_value, found.p_value_wins, found.effect_size, found.detectable, found.prompts_needed)
    assert told == (None,) * 5 and (found.prompts, found.clusters) == (40, clusters)
    six = PairedStatistics(np.arange(42), np.arange(42) % 6)
    assert six.mean(scores(random.normal(size=42))).known


def test_a_cluster_counts_once_however_many_prompts_it_has() -> None:
    random = np.random.default_rng(4)
    method, base = random.exponential(size=(3, 12)), random.normal(size=12)
    single = compare(PairedStatistics(np.arange(12)), scores(method), scores(base), True)
    repeated = scores(np.repeat(method, 8, axis=1)), scores(np.repeat(base, 8))
    eight = compare(PairedStatistics(np.arange(96), np.arange(96) // 8), *repeated, True)
    by_prompt = compare(PairedStatistics(np.arange(96) // 8), *repeated, True)
    for name in ("low", "value", "high"):
        expected = getattr(single.mean, name)
        assert getattr(eight.mean, name) == getattr(by_prompt.mean, name) == pytest.approx(expected)
    assert eight.p_value == pytest.approx(single.p_value) and eight.effect_size == pytest.approx(single.effect_size)
    assert eight.win_rate.low == pytest.approx(single.win_rate.low)
    assert eight.clusters_needed == single.clusters_needed == single.prompts_needed
    assert eight.prompts_needed == 8 * single.prompts_needed and (eight.prompts, eight.clusters) == (96, 12)


def test_a_large_cluster_among_small_ones_costs_degrees_of_freedom() -> None:
    random = np.random.default_rng(6)
    sizes = [30, 30, *[5] * 6]
    clusters = np.repeat(np.arange(8), sizes)
    held = 0
    for _ in range(600):
        values = random.normal(size=8)[clusters]
        held += not PairedStatistics(np.arange(90), clusters).mean(scores(values)).excludes(0)
    assert 0.92 < held / 600 < 0.985


def test_a_prompt_in_two_clusters_is_refused() -> None:
    with pytest.raises(UserError, match="The prompt 'a fox' stands in two clusters"):
        PairedStatistics(np.array(["a fox", "a fox", "an owl"]), np.array(["animals", "red", "animals"]))


def test_intervals_stay_within_what_the_scorer_can_give() -> None:
    values = np.array([0.9, 1.0, 0.2, 1.0, 0.95, 0.99, 1.0, 0.1])
    statistics = PairedStatistics(np.arange(8))
    assert statistics.mean(scores(values)).high > 1
    found = statistics.mean(scores(values, (0, 1)))
    assert found.high == 1 and found.low == pytest.approx(max(statistics.mean(scores(values)).low, 0))
    difference = statistics.difference(scores(values, (0, 1)), scores(1 - values, (0, 1)))
    assert -1 <= difference.low <= difference.high <= 1
    # A difference can be negative where scores cannot.
    other = scores(values[::-1], (0, 1))
    assert statistics.difference(scores(values, (0, 1)), other).low < -0.3


def test_a_share_that_no_picture_denies_has_an_interval() -> None:
    """Twelve of twelve: Agresti and Coull's, by the normal law, as single outcomes leave no variance to estimate."""
    ones, zeros = np.ones(12), np.zeros(12)
    statistics = PairedStatistics(np.arange(12))
    found = statistics.win_rate(scores(ones), scores(zeros), True)
    square = special.ndtri(0.975) ** 2
    middle = (12 + square / 2) / (12 + square)
    assert found == Estimate(
        1.0, pytest.approx(middle - math.sqrt(square * middle * (1 - middle) / (12 + square))), 1.0
    )
    assert statistics.mean(scores(ones, (0, 1))) == found
    assert statistics.mean(scores(ones)) == Estimate(1.0, None, None, NO_SPREAD)
    p_value = compare(statistics, scores(ones), scores(zeros), True).p_value_wins
    assert 2 / 2**12 < p_value < 0.02


def test_win_rates_count_ties_as_half_and_know_the_direction() -> None:
    statistics = PairedStatistics(np.arange(8))
    method, other = scores([1, 1, 0, 1] * 2), scores([0, 1, 1, 0] * 2)
    assert statistics.win_rate(method, other, True).value == pytest.approx(2.5 / 4)
    assert statistics.win_rate(method, other, False).value == pytest.approx(1.5 / 4)
    same = compare(statistics, method, method, True)
    assert (same.win_rate.value, same.p_value_wins, same.ties) == (0.5, 1.0, 1.0)
    assert same.win_rate.low < 0.5 < same.win_rate.high


def test_win_rates_go_over_every_pair_of_runs() -> None:
    method = MethodScores(np.array([[3.0, 3.0], [1.0, 1.0]]), (0, 1))
    other = MethodScores(np.array([[2.0, 0.0]]), (None,))
    assert PairedStatistics(np.arange(2)).win_rate(method, other, True).value == pytest.approx(3 / 4)


def test_a_median_lies_between_prompts_in_order() -> None:
    """Of 12: between the third and the tenth, which hold the median in 96.1% of all cases. With ties the outer ones."""
    values = np.arange(12.0) ** 2
    statistics = PairedStatistics(np.arange(12))
    found = statistics.median_difference(scores(values), scores(np.zeros(12)))
    assert found.value == 30.5 and found.low == pytest.approx(4 + 0.105 * 5, abs=0.01)
    tied = np.array([0, 0, 0, 0, 0, 3, 4, 5, 6, 7, 8, 9.0])
    found = statistics.median_difference(scores(tied), scores(np.zeros(12)))
    assert (found.low, found.value, found.high) == (0, 3.5, 7)


def test_a_median_by_clusters_and_seeds() -> None:
    """Prompts of a cluster lie on one side together; seeds add their square."""
    values = np.repeat(np.arange(12.0), 8) + np.tile(np.arange(8) / 100, 12)
    statistics, zero = PairedStatistics(np.arange(96), np.arange(96) // 8), MethodScores(np.zeros((1, 96)), (None,))
    found = statistics.median_difference(scores(values), zero)
    reach = special.stdtrit(11, 0.975) / 2 / math.sqrt(12)
    low, high = np.interp(np.array([0.5 - reach, 0.5 + reach]) * 96 - 0.5, np.arange(96), values)
    assert (found.low, found.high) == pytest.approx((low, high))
    three = scores(values + np.array([[-1.0], [0.0], [1.0]]))
    seeds = math.sqrt(statistics.measure_difference(three, zero).spread.squares(0.975)[1])
    wider = statistics.median_difference(three, zero)
    assert seeds > 1.5 and wider.high - wider.value == pytest.approx(math.hypot(high - found.value, seeds))


def test_pairing_removes_what_the_prompts_share() -> None:
    random = np.random.default_rng(5)
    prompts = random.normal(0, 10, 100)
    base, better = scores(prompts), scores(prompts + random.normal(0.5, 0.5, 100))
    statistics = PairedStatistics(np.arange(100))
    assert statistics.difference(better, base).excludes(0)
    assert statistics.mean(better).low < statistics.mean(base).high


def test_holms_steps() -> None:
    # 0.01 x 4, then 0.02 x 3, 0.04 x 2 and what came before, 1 at most.
    assert holm([0.04, 0.01, 0.5, 0.02]) == pytest.approx([0.08, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    # What cannot be told counts among the others.
    assert holm([None, 0.01, None, 0.02]) == [None, pytest.approx(0.04), None, pytest.approx(0.06)]
    assert holm([]) == []
    assert [measurable(value, 0.05) for value in (None, 0.04, 0.05, 0.06)] == [False, True, False, False]


@pytest.mark.parametrize("confidence", [1.0, 95, 0.0])
def test_a_confidence_that_gives_no_interval_is_refused(confidence: float) -> None:
    with pytest.raises(UserError, match="confidence between 0 and 1"):
        PairedStatistics(np.arange(3), confidence=confidence)
