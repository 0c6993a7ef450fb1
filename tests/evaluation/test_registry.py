"""Which scorers a config may name: ours, those of installed packages, and nothing else."""

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
