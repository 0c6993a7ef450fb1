"""Scorers of other packages."""

import sys
from pathlib import Path

import pytest

# As docs/evaluation.md shows it.
BRIGHTNESS = """
import torch
from mapolab.evaluation.scorers.scorer import Scorer

class Brightness(Scorer):
    name, kind, higher_is_better, minimum, maximum = "brightness", "score", True, 0.0, 1.0
    description, source = "mean of all pixels", "here"

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def __call__(self, pictures, prompts):
        means = [sum(picture.convert("L").tobytes()) / (255 * picture.width * picture.height) for picture in pictures]
        return self.scale * torch.tensor(means)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a package there as pip would: a module, and its entry point `brightness` in a .dist-info folder."""
    site = tmp_path / "site"

    def put(code: str = BRIGHTNESS, names: str = "Brightness") -> None:
        about = site / "brightness_scorer-1.0.dist-info"
        about.mkdir(parents=True, exist_ok=True)
        (site / "brightness_scorer.py").write_text(code)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brightness-scorer\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[mapolab.scorers]\nbrightness = brightness_scorer:{names}\n")
        sys.modules.pop("brightness_scorer", None)
        sys.path_importer_cache.pop(str(site), None)

    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file that changes within its time stamp's second
    yield put
    sys.modules.pop("brightness_scorer", None)
