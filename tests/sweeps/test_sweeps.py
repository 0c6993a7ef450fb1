"""Sweeps with the real command: what each job does, how the sweep ends, and what its folder tells."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from processes import PATIENCE, manifest, steps_done, weights

from mapolab.errors import RunError
from mapolab.files import read_json
from mapolab.sweeps.folder import SweepFolder
from mapolab.sweeps.outcome import metric

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def settings(tiny_pipeline_folder, pairs_file, tmp_path) -> list[str]:
    return [
        "train", "data=parquet_pairs", f"data.path={pairs_file}", "data.resolution=16", "data.batch_size=2",
        "data.num_workers=0", "data.cache=true", "evaluation=pictures", f"model.pretrained={tiny_pipeline_folder}",
        "trainer.max_steps=6", "trainer.progress=off", "strategy.accelerator=cpu", "name=x", "optimizer.lr=1e-4",
        f"data.cache_folder={tmp_path / 'cache'}",
    ]  # fmt: skip


def mapolab(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code, and all that it said."""
    command = [sys.executable, "-m", "mapolab", *arguments]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout + done.stderr


def only_sweep(folder: Path) -> SweepFolder:
    (path,) = (folder / "outputs" / "sweeps").iterdir()
    return SweepFolder(path)


@pytest.mark.faults
def test_each_job_has_two_ranks_one_folder_and_its_own_overrides(settings, tmp_path, reliability):
    two = ["strategy=ddp", "strategy.devices=2", "strategy.accelerator=cpu"]
    code, said = mapolab(tmp_path, *settings, *two, "-m", "seed=0,1,2")
    assert code == 0, said
    runs = sorted((tmp_path / "outputs" / "x").iterdir())
    assert [yaml.safe_load((run / "config.yaml").read_text())["seed"] for run in runs] == [0, 1, 2]
    assert len({weights(run) for run in runs}) == 3
    code, said = mapolab(tmp_path, *settings, *two, "seed=1", "output_dir=alone")
    assert code == 0, said
    assert weights(runs[1]) == weights(tmp_path / "alone")
    reliability(
        "Sweep of three jobs with two processes each",
        "one folder a job, its own overrides on every rank, the environment restored",
        "three folders, three seeds, three results; one of them again alone: equal to the bit",
    )


@pytest.mark.slow
def test_a_failed_job_stops_no_other_and_shows_in_the_exit_code(settings, tmp_path):
    rates = "optimizer.lr=1e-4,1e30,1e-5"
    sweep = [*settings, "-m", rates, "hydra/launcher=processes", "trainer.gradient_clip_norm=null"]
    code, said = mapolab(tmp_path, *sweep)
    assert code == 1
    assert "1 of 3 jobs did not finish" in said and "is not finite" in said
    folder = only_sweep(tmp_path)
    states = [manifest(job.run if job.run.is_absolute() else tmp_path / job.run)["status"] for job in folder.jobs()]
    assert states == ["finished", "failed", "finished"]
    code, said = mapolab(tmp_path, "status", str(folder.path))
    assert code == 0
    assert "2 finished, 1 failed" in said
    command = next(line.split(": ", 1)[1] for line in said.splitlines() if line.strip().startswith("job 1: mapolab"))
    assert "optimizer.lr=1e+30" in command
    grid = (folder.path / "grid.csv").read_text().splitlines()
    assert len(grid) == 4 and grid[0].startswith("job,") and "mapolab train" in grid[1]


@pytest.mark.faults
def test_stopped_by_a_signal_a_sweep_goes_on_where_it_was(settings, tmp_path, reliability):
    sweep = [*settings, "-m", "seed=0,1", "trainer.max_steps=150"]
    command = [sys.executable, "-m", "mapolab", *sweep]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    root = tmp_path / "outputs" / "x"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if any(steps_done(run) > 5 for run in root.glob("*-seed0-*")):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert "1 wait" in errors and "Traceback" not in errors
    (run,) = root.iterdir()
    assert manifest(run)["status"] == "interrupted"
    _, said = mapolab(tmp_path, "status", str(only_sweep(tmp_path).path))
    assert "1 stopped, 1 waiting" in said
    code, said = mapolab(tmp_path, *sweep)
    assert code == 0, said
    code, said = mapolab(tmp_path, *settings, "trainer.max_steps=150", "seed=0", "output_dir=alone")
    assert weights(run) == weights(tmp_path / "alone")
    reliability(
        "Ctrl-C in a sweep",
        "the running job saves itself, no other starts; the same command goes on",
        "exit code 130, one job stopped and one waiting; then both finished, weights equal to the bit",
    )


def test_a_wrong_job_is_refused_before_any_starts(settings, tmp_path):
    code, said = mapolab(tmp_path, *settings, "-m", "objective.beta=1,-1")
    assert code == 2
    assert "Job 1 " in said and "beta" in said
    assert not (tmp_path / "outputs" / "x").exists()
    code, said = mapolab(tmp_path, *settings, "-m", "trainer.log_every=1,2")
    assert code == 2
    assert "Jobs 0 and 1 are the same run" in said


@pytest.mark.faults
def test_searches_share_a_study_and_survive_a_kill(settings, tmp_path, reliability):
    """Two processes at once, one of them killed in the middle of a trial; then the command again."""
    pytest.importorskip("optuna")
    search = [
        *settings, "-m", "hydra/sweeper=optuna", "hydra.sweeper.metric=metrics/loss", "hydra.sweeper.trials=5",
        "optimizer.lr=tag(log, interval(1e-5, 1e-3))", "hydra.sweep.dir=search", "trainer.max_steps=60",
    ]  # fmt: skip
    command = [sys.executable, "-m", "mapolab", *search]
    options = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    first, second = (subprocess.Popen(command, cwd=tmp_path, **options) for _ in range(2))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not list(tmp_path.glob("outputs/x/*/metrics.csv")):
        time.sleep(0.01)
    first.kill()
    first.communicate()
    said, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, said
    code, again = mapolab(tmp_path, *search)
    assert code == 0, again
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "search" / "study.journal"))
    study = optuna.load_study(study_name="mapolab", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5
    assert len(list(tmp_path.glob("outputs/x/*/unet"))) == 5
    assert f"Best: optimizer.lr={study.best_params['optimizer.lr']}" in again
    reliability(
        "One of two processes that share a search killed in a trial",
        "the trial is taken up again in its own run; as many trials as asked for",
        "5 trials complete, 5 runs finished",
    )


def test_a_product_of_scorers_wants_both_in_one_picture(tmp_path):
    folder = tmp_path / "evaluation" / "1a2b"
    folder.mkdir(parents=True)
    (folder / "links.json").write_text("{}")
    (folder / "scores.csv").write_text("index,style,concept\n0,1.0,0.0\n1,0.0,1.0\n2,0.5,1.0\n")
    assert metric(tmp_path, "evaluation/style") == pytest.approx(0.5)
    assert metric(tmp_path, "evaluation/style*concept") == pytest.approx(0.5 / 3)
    with pytest.raises(RunError, match="has no evaluation/beauty"):
        metric(tmp_path, "evaluation/beauty")


@pytest.mark.slow
def test_a_grid_gives_each_objective_its_best_rate(settings, tmp_path):
    pytest.importorskip("optuna")
    grid = [
        *settings, "-m", "hydra/sweeper=optuna", "hydra.sweeper.metric=metrics/loss", "hydra.sweeper.sampler=grid",
        "hydra.sweeper.best_for=objective", "objective=choice(sft,mapo)", "optimizer.lr=choice(1e-4,1e-5)",
        "hydra.sweep.dir=grid", "hydra/launcher=processes", "hydra.sweeper.parallel=4", "hydra.launcher.parallel=2",
    ]  # fmt: skip
    code, said = mapolab(tmp_path, *grid)
    assert code == 0, said
    best = yaml.safe_load((tmp_path / "grid" / "best.yaml").read_text())
    assert {item["settings"]["objective"] for item in best} == {"sft", "mapo"}
    assert len(read_json(tmp_path / "grid" / "jobs" / "3.json")["arguments"]) > 3


@pytest.mark.faults
def test_jobs_run_on_ray(settings, tmp_path):
    pytest.importorskip("ray")
    code, said = mapolab(tmp_path, *settings, "-m", "seed=0,1", "hydra/launcher=ray")
    assert code == 0, said
    assert len(list((tmp_path / "outputs" / "x").glob("*/unet"))) == 2
    assert "Job 1 ended with exit code 0" in said
