"""Intervals hold the truth as often as they say, agree with scipy's, and use the pairing."""

from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

from mapolab.errors import UserError
from mapolab.evaluation.differences import compare, holm, prompts_needed
from mapolab.evaluation.statistics import Estimate, MethodScores, PairedBootstrap

SIMULATIONS = 1000


def one_seed(values) -> MethodScores:
    return MethodScores(np.atleast_2d(np.asarray(values, dtype=float)), (0,))


def test_a_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=80)
    ours = PairedBootstrap(np.arange(80), samples=20000).mean(one_seed(values))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=1).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    # 20000 resamples place a 2.5% quantile to about 2% of the interval's width.
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.04 * width)


def test_a_paired_difference_agrees_with_scipy() -> None:
    generator = np.random.default_rng(3)
    before = generator.normal(size=60)
    after = before + generator.normal(0.2, 0.3, size=60)
    ours = PairedBootstrap(np.arange(60), samples=20000).difference(one_seed(after), one_seed(before))
    difference = lambda x, y, axis: (x - y).mean(axis)  # noqa: E731
    theirs = stats.bootstrap((after, before), difference, paired=True, n_resamples=20000, method="percentile", rng=1)
    low, high = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.04 * (high - low))


def coverage(simulate, truth: float) -> float:
    estimates = [simulate(np.random.default_rng([7, number]), number) for number in range(SIMULATIONS)]
    return float(np.mean([not estimate.excludes(truth) for estimate in estimates]))


WITHIN = pytest.approx(0.95, abs=0.0201)  # two points; the rest is rounding


@pytest.mark.parametrize(("prompts", "pictures"), [(12, 1), (50, 4), (200, 1)])
def test_the_mean_covers_its_truth(prompts: int, pictures: int) -> None:
    of_picture = np.repeat(np.arange(prompts), pictures)

    def simulate(generator: np.random.Generator, number: int) -> Estimate:
        values = generator.normal(1.0, 1.0, prompts)[of_picture] + generator.normal(0, 0.5, len(of_picture))
        return PairedBootstrap(of_picture, 400, seed=number).mean(one_seed(values))

    assert coverage(simulate, 1.0) == WITHIN


# Standard deviations of the seeds, the prompts and both together. Whether the seeds decide (where methods train well or
# badly by chance), hardly matter, or something between.
SPREADS = [(0.3, 0.3, 0.3), (0.05, 0.3, 0.3), (0.3, 0.1, 0.5)]


def two_methods(generator: np.random.Generator, seeds: int, spreads, paired: bool = True):
    """A method that is better by 0.3, and another, over 60 prompts that are as hard for both."""
    of_seeds, of_prompts, of_both = spreads
    shared = generator.normal(size=60)
    tables = [
        shared
        + shift
        + generator.normal(0, of_prompts, 60)
        + generator.normal(0, of_seeds, (seeds, 1))
        + generator.normal(0, of_both, (seeds, 60))
        for shift in (0.3, 0)
    ]
    names = [tuple(range(seeds)), tuple(range(seeds)) if paired else tuple(range(100, 100 + seeds))]
    return [MethodScores(table, own) for table, own in zip(tables, names, strict=True)]


@lru_cache(maxsize=100)
def _sixty(seed: int) -> PairedBootstrap:
    return PairedBootstrap(np.arange(60), 400, seed=seed)


def sixty(number: int) -> PairedBootstrap:
    """Over 60 prompts; a hundred sets of resamples serve a thousand simulations."""
    return _sixty(number % 100)


@pytest.mark.parametrize(("seeds", "paired"), [(3, True), (5, True), (10, True), (3, False)])
@pytest.mark.parametrize("spreads", SPREADS)
def test_the_difference_covers_its_truth_over_training_seeds(seeds, spreads, paired) -> None:
    def simulate(generator: np.random.Generator, number: int) -> Estimate:
        return sixty(number).difference(*two_methods(generator, seeds, spreads, paired))

    assert coverage(simulate, 0.3) == WITHIN


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spreads", SPREADS)
def test_the_win_rate_covers_its_truth_over_training_seeds(seeds, spreads) -> None:
    def simulate(generator: np.random.Generator, number: int) -> Estimate:
        return sixty(number).win_rate(*two_methods(generator, seeds, spreads), True)

    of_seeds, of_prompts, of_both = spreads
    apart = np.sqrt(2 * (of_seeds**2 + of_prompts**2 + of_both**2))
    assert coverage(simulate, stats.norm.cdf(0.3 / apart)) == WITHIN


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spreads", SPREADS)
def test_the_median_covers_its_truth_over_training_seeds(seeds, spreads) -> None:
    def simulate(generator: np.random.Generator, number: int) -> Estimate:
        return sixty(number).median_difference(*two_methods(generator, seeds, spreads))

    found = coverage(simulate, 0.3)
    # Three seeds that hardly matter make it a little too wide, as docs/evaluation.md says.
    assert found == WITHIN or (seeds == 3 and spreads == SPREADS[1] and 0.97 < found < 0.98)


def test_the_difference_from_a_base_without_seeds_covers_its_truth() -> None:
    def simulate(generator: np.random.Generator, number: int) -> Estimate:
        base = generator.normal(size=60)
        method = base + 0.3 + generator.normal(0, 0.3, (5, 1)) + generator.normal(0, 0.5, 60)
        method = method + generator.normal(0, 0.3, (5, 60))
        return sixty(number).difference(MethodScores(method, (0, 1, 2, 3, 4)), MethodScores(base[None], (None,)))

    assert coverage(simulate, 0.3) == WITHIN


@pytest.mark.parametrize("prompts", [60, 200])
def test_the_win_rate_covers_its_truth(prompts: int) -> None:
    def simulate(generator: np.random.Generator, number: int) -> Estimate:
        shared = generator.normal(size=prompts)
        first, second = (shared + generator.normal(shift, 1, prompts) for shift in (0.5, 0))
        return PairedBootstrap(np.arange(prompts), 400, seed=number).win_rate(one_seed(first), one_seed(second), True)

    assert coverage(simulate, stats.norm.cdf(0.5 / np.sqrt(2))) == WITHIN


def test_the_median_covers_its_truth() -> None:
    def simulate(generator: np.random.Generator, number: int) -> Estimate:
        differences = generator.exponential(1.0, 101)
        bootstrap = PairedBootstrap(np.arange(101), 400, seed=number)
        return bootstrap.median_difference(one_seed(differences), one_seed(np.zeros(101)))

    assert coverage(simulate, np.log(2)) == WITHIN


def test_p_values_are_students_and_corrected_by_holms_steps() -> None:
    generator = np.random.default_rng(11)
    first, second = generator.normal(0.2, 1, 40), generator.normal(0, 1, 40)
    bootstrap = PairedBootstrap(np.arange(40), 200)
    ours = compare(bootstrap, one_seed(first), one_seed(second), True)
    theirs = stats.ttest_rel(first, second)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.effect_size == pytest.approx((first - second).mean() / (first - second).std(ddof=1))
    assert ours.median.value == pytest.approx(np.median(first - second))
    assert ours.wins + ours.ties + ours.losses == pytest.approx(1)
    assert ours.win_rate.value == pytest.approx(ours.wins + ours.ties / 2)
    # 0.01 x 4, then 0.02 x 3, 0.04 x 2 and what came before, 1 at most.
    assert holm([0.04, 0.01, 0.5, 0.02]) == pytest.approx([0.08, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_prompts_needed_find_the_difference_as_often_as_promised() -> None:
    """With that many prompts a t-test finds the true difference in about 80% of all cases."""
    count = prompts_needed(0.25, 1.0, 0.0, 0.05)
    generator = np.random.default_rng(2)
    found = [stats.ttest_1samp(generator.normal(0.25, 1, count), 0).pvalue < 0.05 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert prompts_needed(0.0, 1.0, 0.0, 0.05) is None
    assert prompts_needed(0.25, 1.0, 0.01, 0.05) is None
    assert prompts_needed(0.25, 1.0, 0.004, 0.05) > count


def test_too_few_prompts_and_no_difference_are_told_apart() -> None:
    generator = np.random.default_rng(3)
    base = generator.normal(size=20)
    small = base + 0.3 + generator.normal(0, 1, 20)
    bootstrap = PairedBootstrap(np.arange(20), 500)
    unresolved = compare(bootstrap, one_seed(small), one_seed(base), True)
    assert unresolved.prompts_needed > unresolved.prompts
    same = compare(bootstrap, one_seed(base), one_seed(base), True)
    assert (same.p_value, same.effect_size, same.prompts_needed, same.ties) == (1.0, 0.0, None, 1.0)
    clear = compare(bootstrap, one_seed(base + 2 + generator.normal(0, 0.1, 20)), one_seed(base), True)
    assert clear.prompts_needed < clear.prompts and clear.p_value < 1e-6


def test_win_rates_count_ties_as_half_and_know_the_direction() -> None:
    bootstrap = PairedBootstrap(np.arange(4), 200)
    method, other = one_seed([1, 1, 0, 1]), one_seed([0, 1, 1, 0])
    assert bootstrap.win_rate(method, other, True).value == pytest.approx(2.5 / 4)
    assert bootstrap.win_rate(method, other, False).value == pytest.approx(1.5 / 4)
    assert bootstrap.win_rate(method, method, True) == Estimate(0.5, 0.5, 0.5)


def test_win_rates_go_over_every_pair_of_runs() -> None:
    method = MethodScores(np.array([[3.0, 3.0], [1.0, 1.0]]), (0, 1))
    other = MethodScores(np.array([[2.0, 0.0]]), (None,))
    assert PairedBootstrap(np.arange(2), 200).win_rate(method, other, True).value == pytest.approx(3 / 4)


def test_pairing_removes_what_the_prompts_share() -> None:
    generator = np.random.default_rng(5)
    prompts = generator.normal(0, 10, 100)
    base, better = one_seed(prompts), one_seed(prompts + generator.normal(0.5, 0.5, 100))
    bootstrap = PairedBootstrap(np.arange(100))
    assert bootstrap.difference(better, base).excludes(0)
    assert not bootstrap.mean(better).apart_from(bootstrap.mean(base))


def test_the_same_seed_gives_the_same_interval_whatever_was_asked_before() -> None:
    values = MethodScores(np.random.default_rng(0).normal(size=(3, 30)), (0, 1, 2))
    first, second = (PairedBootstrap(np.arange(30), 300, seed=4) for _ in range(2))
    second.win_rate(one_seed(values.values[0]), values, True)
    assert first.mean(values) == second.mean(values)
    assert first.mean(values) != PairedBootstrap(np.arange(30), 300, seed=5).mean(values)


@pytest.mark.parametrize("settings", [{"samples": 0}, {"confidence": 1.0}, {"confidence": 95}])
def test_settings_that_give_no_interval_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match="confidence between 0 and 1"):
        PairedBootstrap(np.arange(3), **settings)
