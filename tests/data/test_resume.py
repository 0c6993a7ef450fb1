"""The sample sequence of real ranks with real loader processes, stopped, resumed and dealt out anew."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

STEPS, ACCUMULATION, GLOBAL_BATCH = 24, 2, 4


@pytest.fixture(scope="module")
def pairs(make_pairs, tmp_path_factory) -> Path:
    """37 rows in blocks of 5, with some ties; 192 samples are almost six epochs of them."""
    rows = [row | {"caption": str(index)} for index, row in enumerate(make_pairs(37)[:37])]
    for index in (3, 11, 12, 30):
        rows[index]["label_0"] = 0.5
    file = tmp_path_factory.mktemp("resume") / "pairs.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), file, row_group_size=5)
    return file


def visit(folder: Path, ranks: int, workers: int, stop: int, checkpoint: str = "-") -> None:
    program = str(Path(__file__).with_name("visit.py"))
    arguments = [str(folder), str(ranks), str(workers), str(GLOBAL_BATCH // ranks), str(stop), checkpoint]
    process = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]


def samples(folder: Path) -> list[tuple[int, str]]:
    """(position, caption) of every sample in the order of forward passes and, within one, of ranks."""
    passes: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for rank, file in enumerate(sorted(folder.glob("rank*.jsonl"))):
        for line in file.read_text().splitlines():
            number, positions, captions = json.loads(line)
            assert (number, rank) not in passes, "a forward pass was done twice"
            passes[number, rank] = list(zip(positions, captions, strict=True))
    return [sample for key in sorted(passes) for sample in passes[key]]


def run(pairs: Path, folder: Path, *parts: tuple[int, int, int]) -> list[tuple[int, str]]:
    """The samples of a run done in parts: (ranks, workers, step to stop at)."""
    folder.mkdir()
    shutil.copy(pairs, folder)
    checkpoint = "-"
    for ranks, workers, stop in parts:
        visit(folder, ranks, workers, stop, checkpoint)
        checkpoint = str(folder / f"step{stop}")
    return samples(folder)


@pytest.mark.slow
def test_ranks_workers_and_restarts_change_nothing(pairs, tmp_path):
    undisturbed = run(pairs, tmp_path / "undisturbed", (1, 0, STEPS))
    assert len(undisturbed) == STEPS * ACCUMULATION * GLOBAL_BATCH
    assert len({position for position, _ in undisturbed}) == len(undisturbed)
    for epoch in range(5):
        visited = Counter(caption for _, caption in undisturbed[33 * epoch : 33 * (epoch + 1)])
        assert set(visited.values()) == {1}
        assert len(visited) == 33  # 37 rows without the ties
    assert run(pairs, tmp_path / "two", (2, 1, STEPS)) == undisturbed
    # Stopped in mid-epoch and in mid-window, resumed twice, from two ranks to one and back, with other workers.
    assert run(pairs, tmp_path / "parts", (2, 2, 5), (1, 1, 14), (2, 0, STEPS)) == undisturbed
