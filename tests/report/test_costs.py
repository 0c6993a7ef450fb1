"""Operations of a training are counted once, and again where something else was trained."""

import copy

import yaml

from mapolab.files import read_json, write_json
from mapolab.plan.operations import operations_per_step
from mapolab.report.costs import training_teraflops
from mapolab.report.runs import Run


def test_a_kept_count_is_that_of_the_runs_config(train_config, tmp_path):
    def counted(config: dict) -> float | None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return training_teraflops(Run(tmp_path, tmp_path, {"steps": 3}))

    kept = tmp_path / "operations.json"
    write_json(kept, {"per_step": None})  # as an earlier version kept it, for ever
    expected = 3 * operations_per_step(train_config) / 1e12
    assert counted(train_config) == expected > 0
    before = kept.read_bytes()
    assert counted(train_config) == expected and kept.read_bytes() == before
    larger = copy.deepcopy(train_config)
    larger["trainer"]["gradient_accumulation"] = 4
    assert counted(larger) == 2 * expected
    write_json(kept, read_json(kept) | {"per_step": 1e12})
    assert counted(larger) == 3  # what is kept for this config is not counted again
    larger["model"]["pretrained"] = str(tmp_path / "nowhere")
    assert counted(larger) is None and read_json(kept)["per_step"] == 1e12
