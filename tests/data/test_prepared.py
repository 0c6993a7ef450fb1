"""The prepared cache: restartable, the same bytes whoever makes it, and never mistaken for another."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file

from mapolab.data.datasets import LatentPairs
from mapolab.data.draw import Draw
from mapolab.data.images import fixed_time_ids
from mapolab.data.order import GlobalOrder, MicroStep, Selection
from mapolab.data.prepared import plan, scan
from mapolab.data.prepared.opened import PreparedCache
from mapolab.data.prepared.prepare import prepare
from mapolab.data.prepared.spec import CacheSpec
from mapolab.data.sources.open import open_source
from mapolab.errors import RunError, UserError
from mapolab.models.encoder import Encoder
from mapolab.models.sdxl import SDXL
from mapolab.training.run import train

CPU = torch.device("cpu")
UNET = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def small_units(monkeypatch):
    """Units of a few rows, so that a small data set has several of each kind."""
    monkeypatch.setattr(scan, "ROWS_PER_UNIT", 10)
    monkeypatch.setattr(plan, "MOST_IMAGES_PER_SHARD", 7)
    monkeypatch.setattr(plan, "PROMPTS_PER_SHARD", 2)


@pytest.fixture(scope="module")
def sdxl(tiny_pipeline_folder) -> SDXL:
    return SDXL(str(tiny_pipeline_folder))


@pytest.fixture(scope="module")
def source(make_pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rows = make_pairs(24)
    rows[3]["image_0_uid"] = rows[11]["image_0_uid"]  # the same image in two pairs
    rows[3]["jpg_0"] = rows[11]["jpg_0"]
    rows[5]["jpg_0"] = b"broken"
    parquet.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet", row_group_size=4)
    return open_source(str(folder / "pairs.parquet"), None, None, folder, 1)


def spec(source, sdxl: SDXL, **changes) -> CacheSpec:
    return replace(CacheSpec(source.fingerprint, sdxl.encoder_identity, 16, False, True, True, "float32"), **changes)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_parts_in_any_order_make_the_same_cache(source, sdxl, tmp_path, small_units):
    assert prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path / "one")
    complete = [prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path / "three", part, 3) for part in (2, 0, 1)]
    assert complete == [False, False, True]
    assert content(tmp_path / "one") == content(tmp_path / "three")
    assert len(list((tmp_path / "one" / "images").glob("*.safetensors"))) > 3


def test_what_was_cut_short_is_made_again_and_the_rest_kept(source, sdxl, tmp_path, small_units, capfd):
    whole = tmp_path / "whole"
    prepare(source, spec(source, sdxl), sdxl, CPU, whole)
    expected, times = content(whole), {file: file.stat().st_mtime_ns for file in whole.rglob("*.safetensors")}
    (whole / "images" / "00001.json").unlink()  # killed between a file and its note
    damaged = whole / "prompts" / "00000.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    (whole / "rows.safetensors").write_bytes(b"cut off")
    assert not PreparedCache.is_complete(whole, spec(source, sdxl))
    with pytest.raises(UserError, match=r"images/00001.safetensors is damaged or missing. `mapolab prepare` makes it"):
        PreparedCache.open(whole, spec(source, sdxl))
    assert prepare(source, spec(source, sdxl), sdxl, CPU, whole)
    assert content(whole) == expected
    again = {file.name for file, time in times.items() if file.stat().st_mtime_ns != time}
    assert again <= {"00001.safetensors", "00000.safetensors", "rows.safetensors"}


def test_verify_finds_a_flipped_bit(source, sdxl, tmp_path, small_units, capfd):
    prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path)
    expected = content(tmp_path)
    damaged = tmp_path / "images" / "00002.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    assert prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path, verify=True)
    assert f"{damaged} is damaged; it is made again" in capfd.readouterr().err
    assert content(tmp_path) == expected


def test_a_complete_cache_needs_no_encoder(source, sdxl, tmp_path, monkeypatch):
    prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path)
    monkeypatch.setattr(Encoder, "load", lambda sdxl: pytest.fail("the encoders were loaded"))
    assert prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path)


def test_images_and_prompts_are_encoded_once(source, sdxl, tmp_path):
    prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    # 24 pairs and the tie, which repeats the first pair; one image occurs under its name in two pairs.
    assert (manifest["rows"], manifest["images"], manifest["prompts"], manifest["broken_images"]) == (25, 47, 4, 1)
    cache = PreparedCache.open(tmp_path, spec(source, sdxl))
    assert cache.fault(5, [0]) == "image no image file"
    assert cache.fault(5, [1]) is None
    encoder, record = Encoder.load(sdxl), source.records(0)[1]
    from mapolab.data.images import load, to_pixel_values

    pixels = load(record.images[1].data, (16, 16), flip=True)
    mean, std = cache.images([1], [1], [True])
    expected = encoder.encode_images(to_pixel_values(pixels.pixels[None]))
    torch.testing.assert_close((mean, std), expected, rtol=0, atol=1e-5)
    assert torch.equal(cache.time_ids([1], [1])[0], pixels.time_ids)
    torch.testing.assert_close(cache.prompts([1]), encoder.encode_prompts([record.caption]), rtol=0, atol=1e-5)


def test_a_wrong_cache_is_refused_by_name(source, sdxl, tmp_path):
    prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path / "a")
    changes = {"data_fingerprint": "other", "encoder_identity": "other", "resolution": 32, "with_std": False}
    for name, value in changes.items():
        wrong = spec(source, sdxl, **{name: value})
        with pytest.raises(UserError, match=f"is a wrong one: its {name.replace('_', ' ')} is"):
            PreparedCache.open(tmp_path / "a", wrong)
        with pytest.raises(UserError, match="is a wrong one"):
            prepare(source, wrong, sdxl, CPU, tmp_path / "a")
    with pytest.raises(UserError, match="holds no finished cache"):
        PreparedCache.open(tmp_path / "nothing", spec(source, sdxl))


def test_half_precision_takes_half_the_room(source, sdxl, tmp_path):
    sizes = {}
    for dtype in ("float32", "float16"):
        prepare(source, spec(source, sdxl, dtype=dtype), sdxl, CPU, tmp_path / dtype)
        cache = PreparedCache.open(tmp_path / dtype, spec(source, sdxl, dtype=dtype))
        sizes[dtype] = (tmp_path / dtype / "prompts" / "00000.safetensors").stat().st_size
        assert cache.images([1], [1], [False])[0].dtype == torch.float32
    assert sizes["float16"] < 0.6 * sizes["float32"]


def test_an_id_of_two_images_is_refused(make_pairs, sdxl, tmp_path):
    """Ids as some sets have them, the same in every row. One that names the same image everywhere is no fault."""
    rows = [row | {"image_0_uid": "first"} for row in make_pairs(8)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet", row_group_size=4)
    ambiguous = open_source(str(tmp_path / "pairs.parquet"), None, None, tmp_path, 1)
    for _ in range(2):  # what it has read of the images is kept
        with pytest.raises(UserError, match=r"image 0 in pairs.parquet, row 0 also names another image, in .* row 1"):
            prepare(ambiguous, spec(ambiguous, sdxl), sdxl, CPU, tmp_path / "cache")
    for row in rows:
        row["jpg_0"] = rows[0]["jpg_0"]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "same.parquet", row_group_size=4)
    same = open_source(str(tmp_path / "same.parquet"), None, None, tmp_path, 1)
    assert prepare(same, spec(same, sdxl), sdxl, CPU, tmp_path / "same")


def test_a_disk_too_small_is_told_beforehand(source, sdxl, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"has only 1 kB free. Choose another data.cache_folder"):
        prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path)
    assert not (tmp_path / "images").exists()


def test_aspect_buckets_keep_each_pair_in_one_shape(make_image, sdxl, tmp_path):
    sizes = [((48, 24), (40, 24)), ((24, 24), (30, 30)), ((24, 40), (24, 48)), ((48, 24), (24, 48))]
    rows = [
        {"caption": "a fox", "jpg_0": make_image(0, first), "jpg_1": make_image(1, second), "label_0": 1.0}
        for first, second in sizes
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    source = open_source(str(tmp_path / "pairs.parquet"), None, None, tmp_path, 1)
    with_buckets = spec(source, sdxl, aspect_buckets=True, resolution=32)
    prepare(source, with_buckets, sdxl, CPU, tmp_path / "cache")
    cache = PreparedCache.open(tmp_path / "cache", with_buckets)
    shapes = []
    for row in range(4):
        first, second = (cache.images([row], [place], [False])[0] for place in (0, 1))
        first_ids, second_ids = (cache.time_ids([row], [place]) for place in (0, 1))
        assert first.shape == second.shape
        target = [2 * side for side in first.shape[-2:]]  # this VAE halves
        assert first_ids[0, 4:].tolist() == second_ids[0, 4:].tolist() == target
        assert first_ids[0, :2].tolist() == list(sizes[row][0][::-1])
        assert fixed_time_ids(second_ids).tolist() == [[*target, 0, 0, *target]]
        shapes.append(tuple(target))
    assert shapes == [(24, 40), (32, 32), (40, 24), (32, 32)]


@pytest.fixture
def older(source, sdxl, tmp_path, small_units) -> Path:
    """A cache as an earlier version wrote it."""
    prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path / "older")
    for file in (tmp_path / "older").rglob("*.json"):
        value = json.loads(file.read_text())
        for note in (value, *value.get("files", {}).values()):
            for name in ("checksum", "crc32", "name", "cache"):
                note.pop(name, None)
        file.write_text(json.dumps(value, indent=2))
    return tmp_path / "older"


def numbers(cache: PreparedCache) -> list[torch.Tensor]:
    """All that a run can read."""
    rows = [row for row in range(len(cache.labels)) if cache.fault(row, [0, 1]) is None]
    found = [torch.from_numpy(values.copy()) for values in (cache.labels, cache.weights, cache.buckets)]
    for place in (0, 1):
        found += [*cache.images(rows, [place] * len(rows), [bool(place)] * len(rows))]
        found.append(cache.time_ids(rows, [place] * len(rows)))
    return [*found, *cache.prompts(rows), torch.tensor(rows)]


def flip(file: Path, place: int = -1) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def exchange(folder: Path, kind: str) -> None:
    """The first two units of a kind, each with its note."""
    for suffix in (".safetensors", ".json"):
        one, other = (folder / kind / f"0000{number}{suffix}" for number in (0, 1))
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)


def digit(file: Path, name: str) -> None:
    """Another number under a key of a JSON file."""
    text = file.read_text()
    place = text.index(f'"{name}":') + len(name) + 4
    file.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


DAMAGES = {
    "a bit of a shard flipped": lambda folder: flip(folder / "images" / "00001.safetensors"),
    "two shards of images exchanged, with their notes": lambda folder: exchange(folder, "images"),
    "two shards of prompts exchanged, with their notes": lambda folder: exchange(folder, "prompts"),
    "a bit of the index flipped": lambda folder: flip(folder / "rows.safetensors", -2000),
    "a number of the manifest": lambda folder: digit(folder / "manifest.json", "images_per_shard"),
    "a note damaged": lambda folder: flip(folder / "rows.json", 0),
}


@pytest.mark.parametrize("of", ["this version", "an earlier version"])
@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_cache_is_never_trained_on(source, sdxl, tmp_path, older, of, what, reliability, capfd):
    folder = older if of == "an earlier version" else tmp_path / "cache"
    prepare(source, spec(source, sdxl), sdxl, CPU, folder)
    expected = numbers(PreparedCache.open(folder, spec(source, sdxl)))
    DAMAGES[what](folder)
    with pytest.raises(UserError, match="`mapolab prepare`"):
        numbers(PreparedCache.open(folder, spec(source, sdxl)))
    for _ in range(3):  # a run ends when it comes to a damaged file, and its command is given again
        prepare(source, spec(source, sdxl), sdxl, CPU, folder)
        try:
            found = numbers(PreparedCache.open(folder, spec(source, sdxl)))
            break
        except UserError as error:
            assert "is damaged" in str(error)
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))
    reliability(
        f"A prepared cache of {of}: {what}", "refused, then made again", "refused; after that, the same numbers"
    )


def test_a_batch_of_a_damaged_cache_is_a_message(source, sdxl, tmp_path):
    """Of a loader process too, where an exception would arrive as a traceback."""
    prepare(source, spec(source, sdxl), sdxl, CPU, tmp_path)
    flip(tmp_path / "images" / "00000.safetensors")
    cache = PreparedCache.open(tmp_path, spec(source, sdxl))
    pairs = LatentPairs(source, GlobalOrder(0, np.arange(4)), Selection(), Draw(0), False, cache)
    failure = pairs.__getitems__(MicroStep([0, 1], 2))["failure"]
    assert f"{tmp_path / 'images' / '00000.safetensors'} is damaged" in failure and "The same command" in failure


def test_a_run_ends_at_a_damaged_shard_and_its_command_makes_it_again(train_config, tmp_path):
    config = train_config | {"data": train_config["data"] | {"cache": True, "cache_folder": str(tmp_path / "cache")}}
    expected = load_file(train(config | {"output_dir": str(tmp_path / "sound")}) / "unet" / UNET)
    (folder,) = (file.parent for file in (tmp_path / "cache").glob("*/manifest.json"))
    flip(folder / "images" / "00000.safetensors")
    again = config | {"output_dir": str(tmp_path / "again")}
    with pytest.raises(RunError, match=r"images/00000.safetensors is damaged: it is not what was written. The same"):
        train(again)
    found = load_file(train(again) / "unet" / UNET)
    assert all(torch.equal(found[name], values) for name, values in expected.items())
