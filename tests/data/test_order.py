import numpy as np
import pytest

from mapolab.data.order import GlobalOrder, MicroSteps, Selection, WindowOrder, permutation
from mapolab.errors import UserError

SIZES = (7, 3, 12, 1, 9, 8)
LABELS = np.random.default_rng(0).choice([0.0, 1.0, 0.5, -1.0, np.nan], size=sum(SIZES), p=[0.4, 0.4, 0.1, 0.05, 0.05])
STARTS = np.cumsum(SIZES) - SIZES


def keeps(block: int) -> np.ndarray:
    return Selection().keeps(LABELS[STARTS[block] : STARTS[block] + SIZES[block]])


USED = np.flatnonzero((LABELS != 0.5) & (LABELS != -1))


def order(kind: str, seed: int = 7) -> GlobalOrder | WindowOrder:
    return GlobalOrder(seed, USED) if kind == "global" else WindowOrder(seed, SIZES, 15, keeps)


def rows(kind: str, count: int, start: int = 0, seed: int = 7) -> list[int]:
    found = order(kind, seed)
    return [found.row(position) for position, _ in zip(found.positions(start), range(count), strict=False)]


KINDS = pytest.mark.parametrize("kind", ["global", "window"])


@KINDS
def test_every_epoch_visits_each_usable_row_once_in_its_own_order(kind):
    epochs = np.array(rows(kind, 4 * len(USED))).reshape(4, -1)
    assert (np.sort(epochs) == USED).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert rows(kind, len(USED), seed=8) != epochs[0].tolist()


@KINDS
def test_an_order_goes_on_from_any_position(kind):
    positions = [position for position, _ in zip(order(kind).positions(0), range(100), strict=False)]
    everything = rows(kind, 100)
    for index in (1, 17, 63, 99):
        assert rows(kind, 100 - index, start=positions[index]) == everything[index:]


def test_a_window_holds_whole_blocks_and_mixes_them():
    window = order("window")
    blocks = np.repeat(np.arange(len(SIZES)), SIZES)
    visited = blocks[[window.row(position) for position in range(sum(SIZES))]]
    position, seen = 0, []
    while position < sum(SIZES):
        end = window.next_window(position)
        inside = visited[position:end]
        assert set(inside) == set(window.blocks(position)) == set(window.blocks(end - 1))
        assert end - position >= 15 or end == sum(SIZES)
        seen += set(inside)
        position = end
    assert sorted(seen) == list(range(len(SIZES)))  # each block is read in one window only
    assert (np.diff(visited[: window.next_window(0)]) != 0).sum() > 2


def test_a_window_is_filled_up_to_its_size_and_no_further():
    """Blocks of 7: one is too little for 8 rows and enough for 7; two are 14."""
    sizes = {window: WindowOrder(0, (7, 7, 7, 7), window, keeps).next_window(0) for window in (7, 8, 14, 15)}
    assert sizes == {7: 7, 8: 14, 14: 14, 15: 21}


def test_the_order_is_pinned():
    # Every published run depends on these numbers: if they change, no old run can be continued or repeated.
    assert permutation(0, 0, 8).tolist() == [5, 0, 6, 1, 7, 2, 4, 3]
    assert permutation(1, 0, 8).tolist() == [0, 5, 4, 1, 2, 6, 3, 7]
    everything = WindowOrder(0, (4, 4, 4), 8, lambda block: np.ones(4, dtype=bool))
    assert [everything.row(position) for position in range(12)] == [5, 4, 7, 9, 10, 8, 11, 6, 0, 1, 2, 3]


def test_data_without_a_usable_row_is_refused():
    nothing = WindowOrder(0, SIZES, 15, lambda block: np.zeros(SIZES[block], dtype=bool))
    with pytest.raises(UserError, match="no row that this run can use"):
        next(nothing.positions(5))
    with pytest.raises(UserError, match="no row that this run can use"):
        GlobalOrder(0, USED[:0])


def test_a_selection_keeps_what_the_run_can_use():
    labels = np.array([1.0, 0.0, 0.5, -1.0, np.nan])
    assert Selection().keeps(labels).tolist() == [True, True, False, False, True]
    assert Selection(ties=True).keeps(labels).tolist() == [True, True, True, False, True]
    assert Selection(zeros=False).keeps(labels).tolist() == [True, False, False, False, True]


@KINDS
def test_resumed_micro_steps_are_the_rest_and_report_the_whole_length(kind):
    whole = list(MicroSteps(order(kind), 0, 0, 24, batch_size=4))
    for done in (0, 1, 13, 24):
        start = whole[done - 1].end if done else 0
        resumed = MicroSteps(order(kind), start, done, 24, batch_size=4)
        assert list(resumed) == whole[done:]
        assert len(resumed) == 24


@KINDS
def test_ranks_share_out_the_positions_of_one_process(kind):
    alone = list(MicroSteps(order(kind), 0, 0, 6, batch_size=8))
    ranks = [list(MicroSteps(order(kind), 0, 0, 6, 2, rank=rank, world_size=4)) for rank in range(4)]
    for step, together in enumerate(alone):
        assert [position for rank in ranks for position in rank[step].positions] == together.positions
        assert {rank[step].end for rank in ranks} == {together.end}
