"""What streaming costs, and whether that depends on the size of the data: `python benchmarks/loader.py`.

On two synthetic sets, one ten times as large as the other, in processes of their own:

    memory        resident memory of the loading process and its two workers after some hundred batches
    first batch   seconds from opening the data set to the first batch, at the start and at 90% of an epoch
    rows/s        decoding 512 px JPEGs to 512 px, with 0, 1 and 2 workers

Aims: memory equal within 5%; a first batch within 2 s, the two places equal within 20%; two workers well above one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path

import synthetic
from torch.utils.data import DataLoader

from mapolab.data.datamodule import _used
from mapolab.data.datasets import PixelPairs
from mapolab.data.draw import Draw
from mapolab.data.order import MicroSteps, Selection, WindowOrder
from mapolab.data.sources.open import open_source
from mapolab.training.data import STREAMING_WINDOW

SMALL, LARGE = 2_000, 20_000
BATCH = 8


def loader(data: Path, index: Path, workers: int, resolution: int = 128, start: float = 0.0) -> DataLoader:
    """Batches from this share of an epoch on, as the data module loads them."""
    source = open_source(str(data), "train", None, index, 1)
    order = WindowOrder(0, source.block_sizes, STREAMING_WINDOW, partial(_used, source, Selection()))
    position = int(start * sum(source.block_sizes)) // BATCH * BATCH
    steps = MicroSteps(order, position, 0, 10**9, BATCH)
    dataset = PixelPairs(source, order, Selection(), Draw(0), False, resolution)
    return DataLoader(dataset, batch_sampler=steps, num_workers=workers, collate_fn=lambda batch: batch)


def resident(data: Path, index: Path, batches: int) -> float:
    """MB of this process and its workers, at most while the batches come."""
    most, iterator = 0.0, iter(loader(data, index, workers=2))
    for number, _ in enumerate(islice(iterator, batches)):
        if number % 20 == 0:
            most = max(most, sum(map(_resident_of, [os.getpid(), *_children()])))
    return most


def _resident_of(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


def _children() -> list[int]:
    return [int(number) for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def first_batch(data: Path, index: Path, start: float, workers: int) -> float:
    """Seconds until the first batch."""
    begin = time.perf_counter()
    next(iter(loader(data, index, workers, start=start)))
    return time.perf_counter() - begin


def rows_per_second(data: Path, index: Path, workers: int, batches: int) -> float:
    """Rows a second, after the first batches have filled the queues."""
    iterator = iter(loader(data, index, workers, resolution=512))
    for _ in islice(iterator, 2 * max(workers, 1)):
        pass
    begin = time.perf_counter()
    for _ in islice(iterator, batches):
        pass
    return batches * BATCH / (time.perf_counter() - begin)


MEASURES = {"resident": resident, "first_batch": first_batch, "rows_per_second": rows_per_second}


def measure(name: str, *arguments: object) -> float:
    """One figure, measured in a new process that has done nothing else."""
    command = [sys.executable, __file__, "--measure", json.dumps([name, *map(str, arguments[:2]), *arguments[2:]])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(process.stdout.splitlines()[-1])


def report(folder: Path) -> None:
    sets = {rows: synthetic.write(folder, rows) for rows in (SMALL, LARGE)}
    with tempfile.TemporaryDirectory() as index:
        fresh = {rows: measure("first_batch", data, Path(index), 0.0, 2) for rows, data in sets.items()}
        memory = {rows: measure("resident", data, index, 400) for rows, data in sets.items()}
        print(
            f"memory, process and 2 workers   {SMALL} rows {memory[SMALL]:.0f} MB   {LARGE} rows {memory[LARGE]:.0f} MB"
        )
        print(f"    ratio {memory[LARGE] / memory[SMALL]:.3f}  (aim: 0.95 to 1.05)")
        for rows, data in sets.items():
            places = {start: [] for start in (0.0, 0.9)}
            for _ in range(7):  # in turns
                for start, seconds in places.items():
                    seconds.append(measure("first_batch", data, index, start, 2))
            first, late = (statistics.median(seconds) for seconds in places.values())
            print(
                f"first batch, {rows} rows: start {first:.2f} s, at 90% {late:.2f} s, "
                f"without an index {fresh[rows]:.2f} s"
            )
            print(f"    ratio {late / first:.2f}  (aims: under 2 s, 0.8 to 1.2)")
        speeds = {workers: measure("rows_per_second", sets[LARGE], index, workers, 150) for workers in (0, 1, 2)}
        print("rows/s  " + "  ".join(f"{workers} workers {speed:.0f}" for workers, speed in speeds.items()))
        print(f"    2 workers / 1: {speeds[2] / speeds[1]:.2f}  (on {os.cpu_count()} cores)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "mapolab-benchmark", help="for the data, 3.3 GB"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        name, data, index, *rest = json.loads(given.measure)
        print(MEASURES[name](Path(data), Path(index), *rest))
    else:
        report(given.folder)


if __name__ == "__main__":
    main()
