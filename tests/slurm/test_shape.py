"""What a job asks for; without Slurm."""

import shlex
import subprocess

import pytest

from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.sweeps.folder import Job, SweepFolder, sweep_name
from mapolab.sweeps.slurm.script import batch_script
from mapolab.sweeps.slurm.shape import Shape, limit_seconds

LAUNCHER = {
    "partition": "gpu", "account": None, "qos": None, "constraint": None, "nodes": 2, "gpus_per_node": "auto",
    "cpus_per_task": 4, "memory": None, "time": "12:00:00", "parallel": 2, "setup": ["module load cuda"],
    "wrap": "apptainer exec image.sif", "extra": ["--reservation=course"],
}  # fmt: skip


def shape(*overrides: str, **settings) -> Shape:
    ddp = ["strategy=ddp", "strategy.devices=8", "strategy.num_nodes=2"]
    return Shape.of(compose("train", [*ddp, *overrides]), LAUNCHER | settings)


@pytest.mark.parametrize(
    ("written", "seconds"),
    # sbatch's manual: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes:seconds
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-00:30:05", 88205), (15, 900)],
)
def test_limits_are_read_as_slurm_reads_them(written, seconds):
    assert limit_seconds(written) == seconds


def test_a_job_has_a_process_and_a_gpu_for_each_device():
    assert shape() == Shape(nodes=2, tasks_per_node=8, gpus_per_node=8, seconds=43200, notice=120)
    assert shape(time="9").notice is None  # Slurm sends it up to a minute early
    assert shape("strategy.accelerator=cpu").gpus_per_node == 0
    assert shape("strategy.devices=auto", gpus_per_node=4).tasks_per_node == 4


@pytest.mark.parametrize(
    ("overrides", "settings", "message"),
    [
        ([], {"nodes": 3}, "strategy.num_nodes=auto"),
        ([], {"gpus_per_node": 4}, "hydra.launcher.gpus_per_node=8, or strategy.devices=4"),
        (["strategy.devices=auto"], {}, "nothing says how many devices"),
        (["strategy.devices=[0,1]"], {}, "Set strategy.devices=2"),
        (["strategy.strategy=auto"], {}, "Set strategy=ddp"),
        ([], {"time": "3"}, "lower preemption.save_before_limit"),
        ([], {"time": "soon"}, "Give minutes"),
    ],
)
def test_contradictions_are_refused_with_the_fix(overrides, settings, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        shape(*overrides, **settings)


def test_the_script_is_bash_that_says_what_was_asked(tmp_path):
    jobs = [Job(number, ["train", "objective=mapo", f"name='it''s {number}'"], tmp_path) for number in (0, 3)]
    script = batch_script(SweepFolder(tmp_path / "sweep"), jobs, shape(), LAUNCHER)
    for line in ("--array=0,3%2", "--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--partition=gpu",
                 "--signal=USR1@120", "--requeue", "--reservation=course"):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "None" not in script
    # Run by bash itself, with srun as a function that shows what it would start.
    fake = 'srun() { printf "%s|" "$@"; }\nexport SLURM_ARRAY_TASK_ID=3\nmodule() { :; }\n'
    runnable = fake + script.replace("exec srun", "srun")
    shown = subprocess.run(["bash", "-euc", runnable], capture_output=True, text=True, check=True).stdout.split("|")
    assert shown[:6] == [
        "--kill-on-bad-exit=1", "env", "--block-signal=USR1,USR2,TERM", "apptainer", "exec", "image.sif",
    ]  # fmt: skip
    assert shown[7:-1] == ["-P", "-m", "mapolab", *jobs[1].arguments]


def test_no_name_in_the_script_is_run_or_read_as_an_option(tmp_path, monkeypatch, reliability):
    """A folder with every character that a shell or sbatch knows, and what sbatch would be told by it."""
    strange = tmp_path / """it's "$(touch pwned)" `touch pwned` $HOME %j ; # {a,b} * \N{SNOWMAN}"""
    strange.mkdir()
    monkeypatch.chdir(strange)
    jobs = [Job(number, ["train", "name=$(touch pwned)", "x='`touch pwned`'"], strange) for number in (0, 3)]
    settings = LAUNCHER | {"partition": "gpu;touch pwned", "account": "a b", "constraint": "a100&nvlink", "wrap": None}
    script = batch_script(SweepFolder(strange / "sweep $(touch pwned)"), jobs, shape(), settings)
    told = dict(option.split("=", 1) for line in script.splitlines() if line.startswith("#SBATCH ")
                for option in shlex.split(line.removeprefix("#SBATCH ")) if "=" in option)  # fmt: skip
    assert told["--partition"] == "gpu;touch pwned" and told["--account"] == "a b"
    assert told["--constraint"] == "a100&nvlink"
    assert told["--output"] == f"{strange / 'sweep $(touch pwned)' / 'logs' / '@a.log'}".replace("%", "%%").replace(
        "@", "%"
    )
    fake = "module() { :; }\nexport SLURM_ARRAY_TASK_ID=3\n"
    fake += 'srun() { printf "%s|" "$@"; echo "$MAPOLAB_JOB_RECORD|$PWD"; }\n'
    runnable = fake + script.replace("exec srun", "srun")
    shown = subprocess.run(["bash", "-euc", runnable], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    *arguments, record, folder = shown.rstrip("\n").split("|")
    assert arguments[-3:] == jobs[1].arguments
    assert record == str(strange / "sweep $(touch pwned)" / "jobs" / "3.json") and folder == str(strange)
    assert not list(tmp_path.rglob("pwned"))
    reliability(
        "Names with quotes, $(), backticks and % in a script for Slurm",
        "each is one word to bash and to sbatch, and nothing of it is run",
        "the run gets its arguments, folder and record to the letter; no command was run",
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [("partition", "a\n#SBATCH --wrap=x"), ("account", "a\\b"), ("qos", "a\u2028b"), ("memory", ["1G"]),
     ("extra", ["x"]),
     ("extra", ["-a\n-b"]), ("setup", "module load"), ("cpus_per_task", "4; ls"), ("parallel", 0), ("wrap", "a\nb"),
     ("constraint", True)],
)  # fmt: skip
def test_what_no_quotes_hold_is_refused(tmp_path, setting, value):
    jobs = [Job(0, ["train"], tmp_path)]
    with pytest.raises(UserError, match=f"hydra.launcher.{setting} "):
        batch_script(SweepFolder(tmp_path), jobs, shape(), LAUNCHER | {setting: value})
    with pytest.raises(UserError, match="line end"):
        batch_script(SweepFolder(tmp_path / "a\nb"), jobs, shape(), LAUNCHER)


def test_a_sweeps_name_is_what_varies_and_the_same_however_it_is_launched():
    sweep = ["objective=sft,mapo", "seed=0,1", "name=x"]
    name = sweep_name(sweep)
    assert name.startswith("objective+seed-")
    assert name == sweep_name(["name=x", "seed=0,1", "hydra/launcher=slurm", "objective=sft,mapo", "-m"])
    assert name != sweep_name([*sweep, "data.batch_size=2"])
    assert sweep_name(["sweep=mapo_beta"]).startswith("mapo_beta-")
    assert sweep_name(["optimizer.lr=tag(log, interval(1e-6,1e-3))"]).startswith("lr-")
