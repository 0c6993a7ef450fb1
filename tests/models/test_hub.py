"""What is fetched from the hub: the commit that the code was written against, unless another one is named."""

import re

import pytest

from mapolab.errors import UserError
from mapolab.evaluation.scorers import weights as scorer_weights
from mapolab.evaluation.scorers.aesthetic import REPOSITORY as CLIP
from mapolab.evaluation.scorers.hps import HPS, REPOSITORY
from mapolab.evaluation.scorers.weights import weights_folder
from mapolab.models import hub
from mapolab.models.hub import PINNED, fetch


@pytest.fixture
def asked(monkeypatch) -> list:
    """(repository, revision) of each request; there is no hub here, so its client is asked in its place."""
    found: list = []

    def refuse(name, *_, revision=None, **__):
        found.append((name, revision))
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    monkeypatch.setattr(scorer_weights, "hf_hub_download", refuse)
    return found


def test_each_pin_is_a_commit():
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in PINNED.values())
    assert {REPOSITORY, CLIP, "yuvalkirstain/PickScore_v1", "facebook/dinov2-base"} <= PINNED.keys()


def test_the_pin_counts_where_no_revision_is_given(asked):
    for revision in (None, "main"):
        with pytest.raises(UserError, match="could not be fetched"):
            fetch("facebook/dinov2-base", revision, ["*.json"], None, "features")
    with pytest.raises(UserError, match="could not be fetched"):
        fetch("someone/model", None, ["*.json"], None, "features")
    with pytest.raises(UserError, match="could not be"):
        HPS("v2.1")
    pin = PINNED["facebook/dinov2-base"]
    assert asked == [
        ("facebook/dinov2-base", pin), ("facebook/dinov2-base", "main"), ("someone/model", None),
        (REPOSITORY, PINNED[REPOSITORY]),
    ]  # fmt: skip


def test_a_judge_of_another_repository_may_name_its_commit(asked):
    for weights in ("someone/judge@abc123", "yuvalkirstain/PickScore_v1"):
        with pytest.raises(UserError, match="could not be fetched"):
            weights_folder("pickscore", weights)
    assert asked == [("someone/judge", "abc123"), ("yuvalkirstain/PickScore_v1", PINNED["yuvalkirstain/PickScore_v1"])]
