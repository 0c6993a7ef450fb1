"""Which scorers a config may name: ours, those of installed packages, and nothing else."""

from importlib import import_module

import pytest
import torch

from mapolab.errors import UserError
from mapolab.evaluation.scorers.registry import build_scorers


@pytest.fixture
def installed(install):
    install()


def test_a_scorer_of_an_installed_package_is_built_by_name(installed):
    from PIL import Image

    plain, scaled = (build_scorers([entry])[0] for entry in ("brightness", {"_target_": "brightness", "scale": 2.0}))
    pictures = [Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")]
    torch.testing.assert_close(plain(pictures, ["", ""]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(scaled(pictures, ["", ""]), torch.tensor([2.0, 0.0]))


def test_anything_else_is_refused(installed):
    with pytest.raises(UserError, match=r"names os.system.* entry point"):
        build_scorers([{"_target_": "os.system", "command": "true"}])
    with pytest.raises(UserError, match=r"names brightnes\. Did you mean"):
        build_scorers(["brightnes"])
    with pytest.raises(UserError, match=r"has no setting scal.* Its settings: scale"):
        build_scorers([{"_target_": "brightness", "scal": 2.0}])
    with pytest.raises(UserError, match="twice"):
        build_scorers(["brightness", "brightness"])


def test_a_scorer_is_called_like_no_column_of_the_table(installed):
    kind = import_module("brightness_scorer").Brightness
    for kind.name in ("index", "prompt", "seed", "image", "category", "cluster"):
        with pytest.raises(UserError, match=f"has a scorer called {kind.name}, which is a column of scores.csv"):
            build_scorers(["brightness"])
    for kind.name in ("", " bright", "two\nlines", "mean/low", "a*b", "\ud800", "a\0b", None, 3):
        with pytest.raises(UserError, match="which cannot name a column"):
            build_scorers(["brightness"])
    kind.name = "bright, |very| `é`"
    assert build_scorers(["brightness"])[0].name == kind.name
