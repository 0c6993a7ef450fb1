"""Validation during training: which checkpoint is the best one, and the file of a resumed run."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapters import LORA
from safetensors.torch import load_file

from mapolab.files import read_json
from mapolab.models.lora_files import LORA_FILE
from mapolab.runs import RunFolder
from mapolab.training.metrics import MetricsFile
from mapolab.training.run import train
from mapolab.training.validation import Validation


@pytest.fixture
def validated(train_config) -> dict[str, Any]:
    config = copy.deepcopy(train_config)
    config["objective"] = {"name": "diffusion_dpo", "beta": 20.0}
    config["data"]["validation_path"] = config["data"]["path"]
    config["optimizer"]["lr"], config["schedule"] = 0.03, {"name": "constant", "warmup_steps": 0}
    config["trainer"] |= {"max_steps": 8, "gradient_accumulation": 1, "checkpoint_every": 4, "keep_checkpoints": 1}
    config["trainer"] |= {"validate_every": 1, "validation_pairs": 10}
    return config


def rows(run: Path) -> list[dict[str, str]]:
    return MetricsFile(run / "validation.csv").rows()


@pytest.mark.parametrize(
    ("column", "best_of"), [("loss", min), ("margin", max), ("implicit_accuracy", max), ("error_chosen", min)]
)
def test_the_best_checkpoint_is_that_of_the_best_row(validated, column, best_of):
    validated["trainer"]["keep_best"] = column
    run = train(validated)
    found = {int(row["step"]): float(row[column]) for row in rows(run)}
    assert list(found) == list(range(9))
    before = found.pop(0)  # where there is nothing to keep yet
    best = best_of(found, key=found.get)  # the first of equals
    assert column != "error_chosen" or before < found[best]  # and yet it is not the best one
    told = {"step": best, "value": found[best], "column": column, "run": RunFolder(run).identity}
    assert read_json(run / "best.json") == told
    assert {path.name for path in (run / "checkpoints").iterdir()} == {f"step-{best:08d}", "step-00000008"}
    assert len(set(found.values())) > 1


def test_it_changes_nothing_of_the_training(validated, tmp_path):
    """Dropout is off on the held-out pairs, and on again for the next step."""
    validated["model"]["lora"] = LORA | {"dropout": 0.5}
    validated["data"]["prompt_dropout"] = 0.5
    alone = copy.deepcopy(validated) | {"output_dir": str(tmp_path / "alone")}
    alone["trainer"]["validate_every"] = None
    seen, alone = (load_file(train(config) / "lora" / LORA_FILE) for config in (validated, alone))
    assert all(torch.equal(seen[name], tensor) for name, tensor in alone.items())


def test_ranks_share_the_pairs_and_each_comes_once(tmp_path, monkeypatch):
    """Of 11 rows and 9 pairs asked for, two ranks with 2 pairs a pass take two: 8 pairs from an epoch's start."""
    held_out = SimpleNamespace(settings=SimpleNamespace(batch_size=2), dataset=None)
    held_out.dataset = SimpleNamespace(order=SimpleNamespace(rows=range(11)))
    monkeypatch.setattr(Validation, "_batch", lambda self, first, size, trainer: list(range(first, first + size)))
    seen = {}
    for rank in (0, 1):
        passes = seen.setdefault(rank, [])
        strategy = SimpleNamespace(
            validation_step=lambda batch, at, passes=passes: passes.append(batch) or {"loss": torch.tensor(at + 1.0)},
            reduce=lambda values, reduce_op: values,
        )
        trainer = SimpleNamespace(world_size=2, global_rank=rank, strategy=strategy)
        assert Validation(tmp_path, held_out, 1, 9, None)._means(trainer) == {"loss": 1.5}
    begin = seen[0][0][0]
    assert begin % 11 == 0 and begin > 1 << 47
    assert seen == {
        0: [[begin, begin + 1], [begin + 4, begin + 5]],
        1: [[begin + 2, begin + 3], [begin + 6, begin + 7]],
    }


def test_a_resumed_run_has_each_row_once(validated):
    validated["trainer"] |= {"checkpoint_every": 5, "keep_checkpoints": 5}
    run = train(validated)
    before = rows(run)
    for checkpoint in list((run / "checkpoints").iterdir()):
        if checkpoint.name != "step-00000005":
            shutil.rmtree(checkpoint)
    shutil.rmtree(run / "unet")
    (run / "manifest.json").write_text((run / "manifest.json").read_text().replace('"finished"', '"running"', 1))
    text = (run / "validation.csv").read_text().splitlines(keepends=True)
    (run / "validation.csv").write_text("".join(text[:8]) + "5,0.1")  # up to step 6, and a torn row
    assert rows(train(validated)) == before
