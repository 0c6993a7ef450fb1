import numpy as np

from mapolab.data.order import Selection
from mapolab.data.records import Blocks
from mapolab.data.replacement import replacements

LABELS = [np.array([1.0, 0.5, 0.0, np.nan, 1.0]), np.array([-1.0, 0.0]), np.array([np.nan, 1.0, 0.5])]


def tried(row: int, **selection: bool) -> list[int]:
    return list(replacements(row, Blocks([5, 2, 3]), lambda block: LABELS[block], Selection(**selection)))


def test_the_rows_to_try_go_round_and_are_those_that_the_run_uses():
    """Rows 1 and 9 are ties, 3 and 7 broken, 5 unlabelled; a row is never its own replacement."""
    assert tried(2) == [4, 0, 6, 8]
    assert tried(6) == [8, 0, 2, 4]
    assert tried(8) == [0, 2, 4, 6]
    assert tried(2, ties=True) == [4, 0, 1, 6, 8, 9]
    assert tried(2, zeros=False) == [4, 0, 8]
