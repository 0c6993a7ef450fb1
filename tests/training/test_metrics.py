import pytest

from mapolab.training.metrics import MetricsFile, summary


def row(step):
    return {
        "step": step, "consumed_samples": (step + 1) * 4, "loss": step / 7, "error_chosen": 0.5, "loss/sft": 0.1,
        "gradient_norm": 1.0, "learning_rate": 1e-5, "samples_per_second": 8.0, "peak_memory_gib": 1.0 + step,
    }  # fmt: skip


@pytest.fixture
def file(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv")
    for step in range(5):
        metrics.append(row(step))
    return metrics


def test_a_method_without_a_quantity_has_an_empty_column(file):
    header, first = file.path.read_text().splitlines()[:2]
    assert header.startswith("step,consumed_samples,loss,error_chosen,error_rejected,")
    assert header.endswith("loss/sft,gradient_norm,learning_rate,samples_per_second,peak_memory_gib")
    assert first == "0,4,0.0,0.5,,,,,,0.1,1.0,1e-05,8.0,1.0"


def test_a_resumed_file_equals_an_undisturbed_one(file):
    whole = file.path.read_text()
    with open(file.path, "a") as torn:
        torn.write("5,24,0.7")  # the kill came in the middle of a row
    resumed = MetricsFile(file.path)
    resumed.cut(3)
    for step in (3, 4):
        resumed.append(row(step))
    assert file.path.read_text() == whole


def test_a_run_that_starts_over_starts_the_file_over(file):
    file.cut(0)
    assert not file.path.exists()


def test_summary_of_a_run(file):
    file.append(row(5) | {"samples_per_second": 0.4})  # ten seconds: one hiccup
    figures = summary(file.rows())
    assert figures == {
        "steps": 6, "wall_seconds": 12.5, "samples_per_second": 8.0, "step_time_seconds": 0.5, "peak_memory_gib": 6.0
    }  # fmt: skip
    assert summary([]) == {"steps": 0, "wall_seconds": 0.0}
