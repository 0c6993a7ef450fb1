import pytest

from mapolab.data.hygiene import check_split
from mapolab.data.sources.open import open_source
from mapolab.errors import UserError
from mapolab.evaluation.prompts import held_out


@pytest.fixture
def source(pairs_file, tmp_path):
    return open_source(str(pairs_file), None, None, tmp_path / "cache", 1)


def test_no_overlap_passes_and_is_remembered(source, tmp_path, monkeypatch):
    assert check_split(source, ["a boat"], ["unknown"], False, tmp_path / "kept") is None
    monkeypatch.setattr(type(source), "texts", lambda *_: pytest.fail("the captions were read again"))
    assert check_split(source, ["a boat"], ["unknown"], False, tmp_path / "kept") is None


def test_shared_prompts_and_images_are_counted_and_refused(source, tmp_path):
    shared = ["A  Fox", "rain", "a boat"], ["first-2", "second-7", "unknown"]
    with pytest.raises(UserError, match="shares 2 prompts and 2 images of the evaluation, in 7 rows, such as 'a fox'"):
        check_split(source, *shared, False, tmp_path)
    note = check_split(source, *shared, True, tmp_path)
    assert note == "trained on 2 prompts and 2 images of the evaluation, in 7 rows (data.allow_overlap)"


def test_what_is_held_out_may_be_a_file_or_a_data_set(pairs_file, source, tmp_path):
    (tmp_path / "prompts.txt").write_text("a boat\na fox\n")
    assert held_out(str(tmp_path / "prompts.txt"), None, None, tmp_path) == (["a boat", "a fox"], [])
    prompts, images = held_out(str(pairs_file), None, None, tmp_path)
    assert prompts == ["a fox", "a red kite", "two boats", "rain"]
    assert {"first-0", "second-9"} <= set(images)
    with pytest.raises(UserError, match="shares 4 prompts and 20 images"):
        check_split(source, prompts, images, False, tmp_path)
    assert held_out(None, None, None, tmp_path) == ([], [])
    with pytest.raises(UserError, match=r"evaluation\.prompts=nowhere"):
        held_out("nowhere", None, None, tmp_path)
