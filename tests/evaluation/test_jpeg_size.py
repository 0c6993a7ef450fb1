"""The scorer of a picture's size as a JPEG."""

import io

import numpy as np
from PIL import Image

from mapolab.evaluation.scorers.registry import build_scorers


def test_it_is_the_size_of_the_file_in_thousands_of_bytes():
    plain = Image.new("RGB", (64, 64), "red")
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    file = io.BytesIO()
    noisy.save(file, format="JPEG", quality=95)
    (smaller,) = build_scorers(["jpeg_size"])
    small, large = smaller([plain, noisy], ["", ""]).tolist()
    assert small < large and round(large * 1000) == len(file.getvalue())
    (larger,) = build_scorers([{"_target_": "jpeg_size", "larger_is_better": True}])
    assert (smaller.higher_is_better, larger.higher_is_better) == (False, True)
    assert larger([noisy], [""]).tolist() == [large]
    assert larger.fingerprint == smaller.fingerprint  # one number, told apart by which way is better
