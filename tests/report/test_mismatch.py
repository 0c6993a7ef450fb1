"""Gains against mismatch: of the methods that were trained on the measured data, by one scorer, under one name."""

from pathlib import Path

import pytest

from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.files import read_json, write_json
from mapolab.report.collect import collect
from mapolab.report.compare import compare
from mapolab.report.mismatch import other_mismatches, own_mismatch
from mapolab.report.summary import compare_methods

PATTERN = "outputs/emoji_style/*"


@pytest.fixture
def measured(workshop) -> None:
    workshop.base()
    about = {"features": "dinov2", "data_fingerprint": "a1b2c3d4", "chosen": {"distance": 0.2}}
    write_json(workshop.root / "base-12345678" / "mismatch" / "a1b2c3d4-dinov2.json", about)


def test_a_method_of_other_data_has_no_gain_at_this_mismatch(workshop, measured) -> None:
    workshop.run("sft")
    workshop.run("mapo", data_fingerprint="ffff0000")
    assert set(own_mismatch(compare_methods(*collect(PATTERN), 0.95)).gains) == {"SFT"}


def test_a_method_is_found_again_where_other_settings_stand_in_its_name(workshop, measured) -> None:
    one, other = (workshop.run("mapo", config={"objective.beta": beta}) for beta in (8, 16))
    compare(compose("compare", [f"runs=[{one},{other}]", "output_dir=near"]))
    alone = compare_methods(*collect(str(one)), 0.95)
    (point,) = other_mismatches(["near"], alone, "dinov2")
    assert set(point.gains) == {"MaPO", "MaPO beta=16"}


def test_gains_by_another_scorer_are_refused(workshop, measured) -> None:
    workshop.run("sft")
    compare(compose("compare", [f"runs={PATTERN}", "output_dir=near"]))
    file = Path("near/summary.json")
    found = read_json(file)
    found["mismatch"]["scorer"] = "concept"
    write_json(file, found)
    comparison = compare_methods(*collect(PATTERN), 0.95)
    with pytest.raises(UserError, match="by concept, those of this comparison by style"):
        other_mismatches(["near"], comparison, "dinov2")
    del found["mismatch"]["scorer"], found["mismatch"]["labels"]  # as an earlier version wrote it
    write_json(file, found)
    assert set(other_mismatches(["near"], comparison, "dinov2")[0].gains) == {"SFT"}
