import numpy as np
import pytest

from mapolab.data.buckets import BucketOrder, bucket_of, bucket_sizes


@pytest.mark.parametrize("resolution", [64, 512, 1024])
def test_buckets_have_about_as_many_pixels_as_the_square(resolution):
    sizes = bucket_sizes(resolution)
    assert (resolution, resolution) in sizes
    assert len(sizes) >= 5
    for height, width in sizes:
        assert (width, height) in sizes or abs(height * width / resolution**2 - 1) < 0.1
        assert height % 8 == width % 8 == 0
        assert 0.5 <= height / width <= 2
        assert height * width == pytest.approx(resolution**2, rel=0.15)


def test_a_pair_goes_to_the_bucket_of_its_mean_shape():
    assert bucket_of([(512, 512)], 1024) == (1024, 1024)
    wide = bucket_of([(1536, 1024)], 1024)
    assert wide == (832, 1280)
    assert bucket_of([(1024, 1536)], 1024) == wide[::-1]
    assert bucket_of([(1536, 1024), (1024, 1536)], 1024) == (1024, 1024)
    assert bucket_of([(2000, 512)], 1024)[1] / bucket_of([(2000, 512)], 1024)[0] == pytest.approx(2, rel=0.1)


def visits(order: BucketOrder, steps: range) -> list[list[int]]:
    return [[order.row(step * order.stride + within) for within in range(order.stride)] for step in steps]


def test_a_micro_step_holds_one_bucket_and_every_row_comes_once_a_pass():
    rng = np.random.default_rng(0)
    rows, buckets = rng.permutation(1000)[:103], rng.choice(4, size=103, p=[0.7, 0.2, 0.07, 0.03])
    shape = dict(zip(rows.tolist(), buckets.tolist(), strict=True))
    order = BucketOrder(3, rows, buckets, stride=4)
    steps = visits(order, range(200))
    assert all(len({shape[row] for row in step}) == 1 for step in steps)
    for bucket in range(4):
        members = [row for row, of in shape.items() if of == bucket]
        stream = [row for step in steps for row in step if shape[row] == bucket]
        for start in range(0, len(stream) - len(members) + 1, len(members)):
            assert sorted(stream[start : start + len(members)]) == sorted(members)
        # Each bucket has its share of the steps, also one that does not fill a step in an epoch.
        assert len(stream) == pytest.approx(800 * len(members) / 103, abs=8)
    assert visits(order, range(77, 90)) == steps[77:90]  # any place is found without those before it
    other = BucketOrder(3, rows, buckets, stride=4)
    assert visits(other, range(150, 160)) == steps[150:160]
