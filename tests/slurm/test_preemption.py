"""Runs in a real Slurm, disturbed in every way that a cluster knows: they end with the weights of one left alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import manifest, positions, steps_done, weights
from throwaway import wait_for

pytestmark = pytest.mark.slurm
STEPS = 400
START, RUN = 120, 400  # seconds; only a hang takes as long
SLURM = ["hydra.launcher.cpus_per_task=1", 'hydra.launcher.setup=["export MASTER_ADDR=127.0.0.1"]']


@pytest.fixture
def settings(tiny_pipeline_folder, pairs_file, tmp_path) -> list[str]:
    """10 pairs an epoch, 4 or 8 a step; no checkpoint but those that a preemption takes."""
    return [
        "data=parquet_pairs", f"data.path={pairs_file}", "data.resolution=16", "data.batch_size=2", "data.cache=true",
        f"data.cache_folder={tmp_path / 'cache'}", "evaluation=pictures", f"model.pretrained={tiny_pipeline_folder}",
        "trainer.gradient_accumulation=2", f"trainer.max_steps={STEPS}", "trainer.checkpoint_every=10000",
        "trainer.progress=off", "strategy.accelerator=cpu", "schedule=cosine", "optimizer.lr=1e-4",
    ]  # fmt: skip


def mapolab(cluster, *arguments: str, cwd: Path) -> str:
    """The real command, as on a login node."""
    done = subprocess.run(
        [sys.executable, "-m", "mapolab", *arguments],
        env=cluster.environment | {"OMP_NUM_THREADS": "1"}, cwd=cwd, capture_output=True, text=True, timeout=RUN,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit(cluster, script: Path, cwd: Path) -> str:
    done = subprocess.run(
        ["sbatch", "--parsable", str(script)],
        env=cluster.environment | {"OMP_NUM_THREADS": "1"}, cwd=cwd, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def logs(cwd: Path) -> str:
    return "\n".join(file.read_text() for file in cwd.rglob("*.log"))


def wait_for_steps(run: Path, steps: int) -> None:
    wait_for(lambda: steps_done(run) >= steps, START, f"step {steps} in {run.name}")


@pytest.mark.parametrize(("nodes", "devices"), [(1, 1), (1, 2), (2, 1)])
def test_preempted_twice_a_run_ends_as_if_left_alone(cluster, settings, tmp_path, reliability, nodes, devices):
    ranks = nodes * devices
    ddp = ["strategy=ddp", "strategy.accelerator=cpu"] if ranks > 1 else []
    alone = [f"strategy.devices={ranks}", "strategy.num_nodes=1", f"output_dir={tmp_path / 'alone'}"]
    mapolab(cluster, "train", *settings, *ddp, *alone, cwd=tmp_path)
    settings = ["train", *settings, *ddp, f"strategy.devices={devices}", f"strategy.num_nodes={nodes}"]
    settings.append(f"hydra.launcher.nodes={nodes}")

    run = tmp_path / "preempted"
    mapolab(cluster, *settings, f"output_dir={run}", *SLURM, "--sbatch", "job.sh", cwd=tmp_path)
    job = submit(cluster, tmp_path / "job.sh", tmp_path)
    for number, (name, steps) in enumerate((("USR1", 40), ("TERM", 200)), start=1):
        wait_for_steps(run, steps)
        cluster.run("scancel", f"--signal={name}", job)
        wait_for(lambda number=number: int(cluster.facts(job)["Restarts"]) >= number, START, f"restart {number}")
    assert cluster.wait_for_state(job, {"COMPLETED", "FAILED", "TIMEOUT"}, RUN) == "COMPLETED", logs(tmp_path)

    assert cluster.facts(job)["Restarts"] == "2"
    assert manifest(run)["restarts"] == 2
    requeues = json.loads((run / "requeues.json").read_text())
    assert [entry["reason"] for entry in requeues] == ["by SIGUSR1", "by SIGTERM"]
    assert positions(run) == [4 * ranks * step for step in range(1, STEPS + 1)]
    assert weights(run) == weights(tmp_path / "alone")
    reliability(
        f"Slurm job on {nodes} node{'s' * (nodes > 1)} with {ranks} process{'es' * (ranks > 1)}, preempted by "
        "SIGUSR1 and later by SIGTERM",
        "saved, requeued once each time, same folder, each sample once, same weights",
        "restart count 2, same folder, each position once, weights equal to the bit",
    )


def test_an_array_with_one_killed_one_timing_out_one_healthy(cluster, settings, tmp_path, reliability):
    """Through the launcher. One's time limit is cut to a minute while it runs, so that Slurm ends it unexpectedly; when
    it comes back it knows."""
    alone, root, lengths = tmp_path / "alone", tmp_path / "array", (400, 4000, 401)
    settings = ["train", *settings, "name=x"]
    for steps in lengths:
        mapolab(cluster, *settings, f"trainer.max_steps={steps}", f"output_dir={alone / str(steps)}", cwd=tmp_path)
    sweep = [
        *settings, "-m", f"trainer.max_steps={','.join(map(str, lengths))}", f"output_root={root}",
        "hydra/launcher=slurm", *SLURM, "trainer.checkpoint_every=50", 'hydra.launcher.time="9"',
        "preemption.save_before_limit=25", "hydra.launcher.parallel=3",
    ]  # fmt: skip
    printed = mapolab(cluster, *sweep, cwd=tmp_path)
    array = printed.split("Submitted 3 jobs as ")[1].split(";")[0]
    folder = next((root / "sweeps").iterdir())
    runs = [Path(json.loads((folder / "jobs" / f"{task}.json").read_text())["run"]) for task in range(3)]

    wait_for_steps(runs[0], 120)
    cluster.run("scancel", "--signal=KILL", f"{array}_0")
    cluster.run("scontrol", "update", f"JobId={array}_1", "TimeLimit=1")
    ended = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"}
    states = [cluster.wait_for_state(f"{array}_{task}", ended, RUN) for task in range(3)]
    assert states[0] in ("FAILED", "CANCELLED")
    assert states[1:] == ["COMPLETED", "COMPLETED"], logs(tmp_path)
    restarts = [int(cluster.facts(f"{array}_{task}")["Restarts"]) for task in range(3)]
    assert restarts[1] >= 1 and restarts[2] == 0
    shown = mapolab(cluster, "status", str(folder), cwd=tmp_path)
    assert "2 finished" in shown and ("1 failed" in shown or "1 stopped" in shown)

    again = mapolab(cluster, *sweep, cwd=tmp_path)  # the same command runs what is missing
    assert "2 of 3 jobs are finished" in again
    job = again.split("Submitted 1 jobs as ")[1].split(";")[0]
    assert cluster.wait_for_state(job, ended, RUN) == "COMPLETED", logs(tmp_path)
    assert "3 finished" in mapolab(cluster, "status", str(folder), cwd=tmp_path)
    for steps, run in zip(lengths, runs, strict=True):
        assert weights(run) == weights(alone / str(steps))
        assert positions(run) == [4 * step for step in range(1, steps + 1)]
    reliability(
        "Array of three through the launcher: one killed by `scancel --signal=KILL`, one timing out, one healthy",
        "the others go on; the timed out one comes back; the same command submits the killed one again; same weights",
        f"{', '.join(states)}; restarts {restarts}; after the second submission all three equal to the bit",
    )


def test_a_time_limit_that_comes_is_no_end(cluster, settings, tmp_path, reliability):
    """A minute's limit, the shortest there is, for a run of two: it leaves by its own clock."""
    settings = ["train", *settings, "trainer.max_steps=6000"]
    run = tmp_path / "limited"
    limits = ['hydra.launcher.time="1"', "preemption.save_before_limit=25"]
    mapolab(cluster, *settings, f"output_dir={run}", *SLURM, *limits, "--sbatch", "job.sh", cwd=tmp_path)
    assert "--signal" not in (tmp_path / "job.sh").read_text()
    job = submit(cluster, tmp_path / "job.sh", tmp_path)
    wait_for(lambda: int(cluster.facts(job)["Restarts"]) >= 1, START, "the requeue")
    requeue = json.loads((run / "requeues.json").read_text())[0]
    assert requeue["reason"] == "before the job's time limit"
    assert requeue["step"] == steps_done(run) > 0
    wait_for_steps(run, requeue["step"] + 1)  # it goes on
    cluster.run("scancel", job)
    cluster.wait_for_state(job, {"CANCELLED", "COMPLETED"}, START)
    reliability(
        "Time limit of a Slurm job shorter than the run",
        "saves and requeues by itself before the limit, then goes on",
        f"left at step {requeue['step']}, requeued, went on from there",
    )


def test_a_cancelled_job_stays_cancelled_and_is_saved(cluster, settings, tmp_path, reliability):
    run = tmp_path / "cancelled"
    settings = ["train", *settings, "trainer.max_steps=6000", f"output_dir={run}"]
    mapolab(cluster, *settings, *SLURM, "--sbatch", "job.sh", cwd=tmp_path)
    job = submit(cluster, tmp_path / "job.sh", tmp_path)
    wait_for_steps(run, 30)
    cluster.run("scancel", job)
    assert cluster.wait_for_state(job, {"CANCELLED", "PENDING", "COMPLETED"}, START) == "CANCELLED"
    assert (run / "checkpoints" / f"step-{steps_done(run):08d}").is_dir()
    assert manifest(run)["status"] == "interrupted"
    reliability(
        "scancel of a Slurm job",
        "saved; the job is not brought back to life",
        "saved after its last step; state CANCELLED",
    )


def test_without_progress_a_run_stops_and_says_so(cluster, settings, tmp_path, reliability):
    """Signalled while it loads, twice: there is nothing to save and no use in a third try."""
    run = tmp_path / "stuck"
    settings = ["train", *settings, f"output_dir={run}"]
    mapolab(cluster, *settings, *SLURM, "--sbatch", "job.sh", cwd=tmp_path)
    job = submit(cluster, tmp_path / "job.sh", tmp_path)
    for number in (1, 2):
        # Its first sign of life comes after the signals are held back and before the first step.
        cluster.wait_for_state(job, {"RUNNING"}, START)
        wait_for(lambda: cluster.run("squeue", "-h", "-s", "-j", job, check=False).count(".0"), START, "the step")
        wait_for(lambda number=number: _listens(run, number), START, "its imports")
        cluster.run("scancel", "--signal=USR2", job)
        if number == 1:
            wait_for(lambda: int(cluster.facts(job)["Restarts"]) >= 1, START, "the first requeue")
    assert cluster.wait_for_state(job, {"FAILED", "COMPLETED", "TIMEOUT"}, START) == "FAILED", logs(tmp_path)
    assert "made no step between two requeues" in logs(tmp_path)
    assert cluster.facts(job)["Restarts"] == "1"
    reliability(
        "Preempted twice before the first step",
        "requeued once, then stops and says that there is no progress",
        "restart count 1, exit code 1 with the reason",
    )


def _listens(run: Path, number: int) -> bool:
    """A mapolab process of the run lives and catches SIGUSR2 (or holds it back)."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode().split("\0")
            if f"output_dir={run}" not in command or "-m" not in command:
                continue
            fields = dict(line.split(":\t") for line in (folder / "status").read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        bit = 1 << (signal.SIGUSR2 - 1)
        if (int(fields["SigCgt"], 16) | int(fields["SigBlk"], 16)) & bit and "srun" not in command[0]:
            return True
    return False


def test_what_the_cluster_cannot_run_is_refused(cluster, settings, tmp_path):
    """Preflight against the real Slurm: partition, limits, CPUs."""
    cases = {
        "hydra.launcher.partition=gpu": "There is no partition gpu",
        'hydra.launcher.time="72:00:00"': "above the limit of the partition main",
        "hydra.launcher.cpus_per_task=64": "Lower hydra.launcher.cpus_per_task",
        "strategy.devices=2": "Several processes need a strategy",
        "hydra.launcher.nodes=3": "strategy.num_nodes",
    }
    for override, expected in cases.items():
        done = subprocess.run(
            [sys.executable, "-m", "mapolab", "train", *settings, "output_dir=x", "hydra/launcher=slurm", *SLURM,
             'hydra.launcher.time="30"', override],
            env=cluster.environment, cwd=tmp_path, capture_output=True, text=True, timeout=RUN,
        )  # fmt: skip
        assert done.returncode == 2, done.stdout + done.stderr
        assert expected in done.stderr
    assert "main" not in cluster.run("squeue", "-h", "-u", os.environ.get("USER", "root"), "-o", "%P")
