"""Cached and on-line batches, which must be the same thing, whoever makes them."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from torch.utils.data import DataLoader

from mapolab.data.datamodule import _used
from mapolab.data.datasets import LatentPairs, PixelPairs, encode_batch
from mapolab.data.draw import Draw
from mapolab.data.order import GlobalOrder, MicroStep, MicroSteps, Selection, WindowOrder
from mapolab.data.prepared.opened import PreparedCache
from mapolab.data.prepared.prepare import prepare
from mapolab.data.prepared.spec import CacheSpec
from mapolab.data.sources.open import open_source
from mapolab.models.encoder import Encoder
from mapolab.models.sdxl import SDXL

POSITIONS = [3, 4, 17, 18, 25]
STEP = MicroStep(POSITIONS, 26)


@pytest.fixture(scope="module")
def sdxl(tiny_pipeline_folder) -> SDXL:
    return SDXL(str(tiny_pipeline_folder))


@pytest.fixture(scope="module")
def source(make_pairs, tmp_path_factory):
    """40 rows in blocks of 6, with a tie in every fifth and two broken ones: a cut-off image and a missing caption."""
    rows = make_pairs(40)[:40]
    for index in range(0, 40, 5):
        rows[index]["label_0"] = 0.5
    rows[7]["jpg_1"] = rows[7]["jpg_1"][:100]
    rows[12]["caption"] = None
    folder = tmp_path_factory.mktemp("pairs")
    parquet.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet", row_group_size=6)
    return open_source(str(folder / "pairs.parquet"), None, None, folder, 1)


@pytest.fixture(scope="module")
def cache(source, sdxl, tmp_path_factory) -> PreparedCache:
    spec = CacheSpec(source.fingerprint, sdxl.encoder_identity, 16, False, True, True, "float32")
    folder = tmp_path_factory.mktemp("cache")
    assert prepare(source, spec, sdxl, torch.device("cpu"), folder)
    return PreparedCache.open(folder, spec)


def order(source, kind: str) -> GlobalOrder | WindowOrder:
    if kind == "window":
        return WindowOrder(5, source.block_sizes, 12, partial(_used, source, Selection()))
    labels = np.concatenate([source.labels(block) for block in range(len(source.block_sizes))])
    return GlobalOrder(5, np.flatnonzero(Selection().keeps(labels)))


def equal(batch: dict, other: dict) -> None:
    assert batch.keys() == other.keys()
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5)
        elif name != "replaced":
            assert value == other[name]


TOLD = ("own", "shared", "fixed")


@pytest.mark.parametrize(("kind", "told"), [("window", "own"), *(("global", told) for told in TOLD)])
@pytest.mark.parametrize("sides", [("chosen", "rejected"), ("chosen",)])
def test_cached_and_on_line_batches_are_equal(source, cache, sdxl, kind, told, sides):
    draw = Draw(5, sides, 0.5, label_flip_probability=0.3, label_noise_probability=0.3, micro_conditioning=told)
    shared = source, order(source, kind), Selection(), draw, True
    cached, pixels = LatentPairs(*shared, cache), PixelPairs(*shared, 16)
    assert {draw.flips(position) for position in POSITIONS} == {True, False}
    encoder, replaced = Encoder.load(sdxl), [set(), set()]
    for step in MicroSteps(order(source, kind), 0, 0, 12, batch_size=5):
        batches = cached.__getitems__(step), encode_batch(pixels.__getitems__(step), encoder, seed=5, sample=True)
        equal(*batches)
        for found, batch in zip(replaced, batches, strict=True):
            found |= {(item.row, item.replacement) for item in batch["replaced"]}
    assert replaced[0] == replaced[1]
    # Row 7's broken image matters where it is looked at.
    assert {row for row, _ in replaced[0]} == ({7, 12} if "rejected" in sides else {12})


def test_a_broken_row_is_replaced_by_the_next_one_that_is_used(source, cache):
    dataset = LatentPairs(source, order(source, "global"), Selection(), Draw(5), False, cache)
    steps = MicroSteps(dataset.order, 0, 0, 32, batch_size=1)
    found = {item.row: item for step in steps for item in dataset.__getitems__(step)["replaced"]}
    assert {row: item.replacement for row, item in found.items()} == {7: 8, 12: 13}
    assert found[7].reason.startswith("image cut off")
    assert found[7].name == "pairs.parquet, row 7"
    assert "no caption" in found[12].reason


def test_flipped_labels_exchange_the_sides(source, cache):
    shared = source, order(source, "global"), Selection()
    plain, turned = (
        LatentPairs(*shared, Draw(5, label_flip_probability=p), False, cache).__getitems__(STEP) for p in (0.0, 1.0)
    )
    # By their own sizes, not by the latents: each side has its own draw from the posterior.
    assert torch.equal(plain["chosen_time_ids"], turned["rejected_time_ids"])
    assert torch.equal(plain["rejected_time_ids"], turned["chosen_time_ids"])
    assert not torch.equal(plain["chosen_time_ids"], plain["rejected_time_ids"])


@pytest.mark.parametrize("cached", [False, True])
def test_the_time_ids_tell_of_each_image_of_the_first_or_of_none(source, cache, cached):
    rows = [1, 2]  # the first image is preferred, and the second; sizes (20, 16) against (17, 24) and (18, 24)
    first = [16, 20, 0, 2, 16, 16]
    second = [[24, 17, 3, 0, 16, 16], [24, 18, 2, 0, 16, 16]]
    expected = {
        "own": ([first, second[1]], [second[0], first]),
        "shared": ([first] * 2, [first] * 2),
        "fixed": ([[16, 16, 0, 0, 16, 16]] * 2,) * 2,
    }
    for told, (chosen, rejected) in expected.items():
        for swapped in (0.0, 1.0):
            draw = Draw(5, label_flip_probability=swapped, flip_probability=0.5, micro_conditioning=told)
            given = source, Rows(rows), Selection(), draw, False
            dataset = LatentPairs(*given, cache) if cached else PixelPairs(*given, 16)
            batch = dataset.__getitems__(MicroStep([0, 1], 2))
            found = [batch[f"{side}_time_ids"].tolist() for side in ("chosen", "rejected")]
            # Only with its own ids does the size of an image depend on whether it is preferred.
            assert found == ([chosen, rejected] if swapped == 0 or told != "own" else [rejected, chosen])


class Rows(GlobalOrder):
    """These rows, in this order."""

    def __init__(self, rows: list[int]):
        self.rows = rows

    def row(self, position: int) -> int:
        return self.rows[position]


@pytest.mark.parametrize("told", TOLD)
def test_an_image_whose_size_is_told_must_be_sound(make_pairs, sdxl, tmp_path, told):
    """SFT looks at the chosen image alone, here the second one; the first is broken."""
    pairs = [make_pairs(4)[index] for index in (0, 2)]
    pairs[0]["jpg_0"] = pairs[0]["jpg_0"][:100]
    parquet.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    source = open_source(str(tmp_path / "pairs.parquet"), None, None, tmp_path, 1)
    spec = CacheSpec(source.fingerprint, sdxl.encoder_identity, 16, False, False, False, "float32")
    prepare(source, spec, sdxl, torch.device("cpu"), tmp_path / "cache")
    given = source, Rows([0]), Selection(), Draw(5, ("chosen",), micro_conditioning=told), False
    for dataset in (LatentPairs(*given, PreparedCache.open(tmp_path / "cache", spec)), PixelPairs(*given, 16)):
        replaced = dataset.__getitems__(MicroStep([0], 1))["replaced"]
        assert [(item.row, item.replacement) for item in replaced] == ([(0, 1)] if told == "shared" else [])


def test_label_noise_is_a_coin_toss_for_a_share_of_the_positions():
    draw = Draw(1, label_noise_probability=0.5)
    labels = [draw.label(position, 1.0) for position in range(4000)]
    assert labels == [draw.label(position, 1.0) for position in range(4000)]
    assert np.mean(labels) == pytest.approx(0.75, abs=0.03)
    assert all(draw.label(position, 0.5) == 0.5 for position in range(50))


def test_ties_and_weights_reach_the_batch(source, cache):
    selection = Selection(ties=True)
    kept = GlobalOrder(5, np.flatnonzero(selection.keeps(np.asarray(cache.labels))))
    batch = LatentPairs(source, kept, selection, Draw(5), False, cache).__getitems__(MicroStep(list(range(40)), 40))
    assert sorted(batch["labels"].tolist()) == [0.5] * 8 + [1.0] * 32
    assert batch["weights"].tolist() == [1.0] * 40


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("cached", [False, True])
def test_batches_do_not_depend_on_the_number_of_workers(source, cache, workers, cached):
    shared = source, order(source, "window"), Selection(), Draw(5, flip_probability=0.5), False
    dataset = LatentPairs(*shared, cache) if cached else PixelPairs(*shared, 16)
    steps = list(MicroSteps(order(source, "window"), 4, 0, 10, batch_size=4))
    loader = DataLoader(dataset, batch_sampler=steps, num_workers=workers, collate_fn=lambda batch: batch)
    for step, batch in zip(steps, loader, strict=True):
        assert (batch["positions"], batch["next_position"]) == (step.positions, step.end)
        equal(batch, dataset.__getitems__(step))


def test_a_reader_holds_one_window_of_blocks(source):
    dataset = PixelPairs(source, order(source, "window"), Selection(), Draw(5), False, 16)
    for step in MicroSteps(dataset.order, 0, 0, 40, batch_size=4):
        dataset.__getitems__(step)
        assert len(dataset.reader.held) <= 4 + 1  # two windows where a batch lies across, one block for a replacement


def test_nothing_sound_is_an_error_and_no_endless_search(tmp_path):
    rows = [{"caption": "x", "jpg_0": b"no", "jpg_1": b"no", "label_0": 1.0}] * 3
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    broken = open_source(str(tmp_path / "p.parquet"), None, None, tmp_path, 1)
    batch = PixelPairs(broken, GlobalOrder(0, np.arange(3)), Selection(), Draw(0), False, 16).__getitems__(STEP)
    assert list(batch) == ["failure"]
    assert "image no image file" in batch["failure"]


def test_the_folder_of_a_cache(tmp_path: Path):
    base = CacheSpec("data", "encoders", 16, False, False, False, "float32")
    changes = {"data_fingerprint": "x", "encoder_identity": "x", "resolution": 8, "aspect_buckets": True,
               "both_orientations": True, "with_std": True, "dtype": "float16"}  # fmt: skip
    keys = {CacheSpec(**{**vars(base), name: value}).key for name, value in changes.items()} | {base.key}
    assert len(keys) == len(changes) + 1


def test_soft_labels_choose_the_likelier_image_and_say_how_sure():
    soft, hard = Draw(0, soft_labels=True), Draw(0)
    assert soft.judged(0, 0.7, 2) == (0.7, {"chosen": 0, "rejected": 1})
    assert soft.judged(0, 0.2, 2) == (0.8, {"chosen": 1, "rejected": 0})
    assert soft.judged(0, 0.5, 2)[0] == 0.5
    assert hard.judged(0, 0.2, 2) == (1.0, {"chosen": 1, "rejected": 0})
    assert hard.judged(0, 0.2, 1) == (0.0, {"chosen": 0})
    turned = Draw(0, soft_labels=True, label_flip_probability=1.0)
    assert turned.judged(0, 0.75, 2) == (0.75, {"chosen": 1, "rejected": 0})
