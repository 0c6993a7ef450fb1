"""What a config folder, an override or the environment can make Hydra do: nothing that mapolab does not mean."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mapolab import cli
from mapolab.paths import conf_folder

# A stranger's experiment, and what the refusal names.
EXPERIMENTS = {
    "hydra: {callbacks: {a: {_target_: torch.load, f: x}}}": "hydra.callbacks",
    "hydra: {callbacks: '${tiny_base}'}\ntiny_base: {a: {_target_: torch.hub.load}}": "hydra.callbacks",
    "hydra: {job: {env_set: {PATH: /tmp}}}": "hydra.job.env_set",
    "hydra: {job: {env_copy: [PATH]}}": "hydra.job.env_set",
    "hydra: {job: {chdir: true}}": "hydra.job.chdir",
    "hydra: {job: {chdir: '${oc.decode:true}'}}": "hydra.job.chdir",
    "hydra: {job: {name: ../x}}": "hydra.job.name",
    "hydra: {job_logging: {root: {handlers: [f]}, handlers: {f: {class: logging.FileHandler, filename: victim}}}}":
    "hydra.job_logging",
    "hydra: {hydra_logging: {root: {handlers: [f]}, handlers: {f: {(): os.truncate, path: victim, length: 0}}}}":
    "hydra.hydra_logging",
    "hydra: {output_subdir: ../..}": "hydra.output_subdir",
    "hydra: {run: {dir: made}}": "hydra.run.dir",
    "hydra: {sweep: {subdir: ../x}}": "hydra.sweep.subdir",
    "hydra: {launcher: {_target_: hydra_plugins.stranger.Launcher}}": "hydra.launcher._target_",
    "hydra: {launcher: {gpus: '${tiny_base}'}}\ntiny_base: {_target_: torch.load}": "hydra.launcher.gpus",
    "hydra: {launcher: {gpus: '\\${tiny_base}'}}\ntiny_base: {_target_: torch.load}": "hydra.launcher.gpus",
    "hydra: {launcher: {_recursive_: true}}": "hydra.launcher._recursive_",
    "defaults: [{override /hydra/launcher: slurm}]\nhydra: {launcher: {setup: [touch victim]}}": "hydra.launcher.setup",
    "defaults: [{override /hydra/launcher: slurm}]\nhydra: {launcher: {script: victim}}": "hydra.launcher.script",
    "defaults: [{override /hydra/launcher: ray}]\nhydra: {launcher: {address: 'ray://stranger:1'}}":
    "hydra.launcher.address",
    "hydra: {sweeper: {params: {a: {_target_: torch.load}}}}": "hydra.sweeper",
    "hydra: {overrides: {task: [seed=3]}}": "hydra.overrides",
    "hydra: {overrides: {hydra: ['hydra.sweep.dir=${oc.env:HOME}']}}": "hydra.overrides",
    "hydra: {help: {template: $x}}": "hydra.help.template",
    "hydra: {env: {a: 1}}": "hydra.env",
}  # fmt: skip
COMMANDS = ([], ["--cfg", "job"], ["--help"], ["--info", "config"], ["-m"])


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """`--info` gives the root logger a handler, for the rest of its process."""
    root = logging.getLogger()
    before, level = [*root.handlers], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a stranger's, as the current one; `victim` in it must stay as it is."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "victim").write_text("precious")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("how", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_strangers_experiment_cannot_use_hydra(
    experiment: str, how: list[str], strange: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"# @package _global_\n{experiment}\nname: x\n"
    (strange / "experiment" / "evil.yaml").write_text(text)
    path = os.environ["PATH"]
    assert cli.main(["train", "--config-dir", ".", *how, "experiment=evil", "data.path=none.parquet"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"mapolab: {EXPERIMENTS[experiment]}"), message
    assert message.count("\n") == 1
    assert (strange / "victim").read_text() == "precious"
    assert os.environ["PATH"] == path
    assert sorted(entry.name for entry in strange.iterdir()) == ["experiment", "victim"]


def test_the_keys_of_hydra_are_guarded_in_every_command(
    strange: Path, capsys: pytest.CaptureFixture[str], reliability
) -> None:
    for command in cli.COMMANDS:
        for given in (
            "+hydra.callbacks.a._target_=torch.load", "+hydra.job.env_set.PATH=/tmp", "hydra/job_logging=default",
            "hydra/hydra_logging=hydra_debug", "hydra.output_subdir=.hydra", "hydra.run.dir=/etc/x",
            "hydra.launcher._target_=hydra_plugins.x.Y", "+hydra.foo=1", "hydra.searchpath=[pkg://this]",
        ):  # fmt: skip
            for how in ([], ["--hydra-help"], ["--cfg", "hydra"]) if command == "train" else ([],):
                assert cli.main([command, *how, given]) == 2, (command, how, given)
                message = capsys.readouterr().err
                assert message.startswith("mapolab: hydra.") and message.count("\n") == 1, message
    assert [entry.name for entry in strange.iterdir() if entry.name != "victim"] == ["experiment"]
    reliability(
        "A config folder of a stranger sets Hydra's own keys: callbacks, environment, log files, launchers, folders",
        "refused by name before Hydra builds or writes anything, in every command",
        f"{len(EXPERIMENTS)} experiments and 9 overrides: one paragraph and exit code 2 each; nothing written",
    )


def test_what_is_documented_of_hydra_goes_on(strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (
        ["hydra/launcher=slurm", "hydra.launcher.setup=[module load cuda]", "hydra.launcher.wrap=time"],
        ["hydra/launcher=processes", "hydra.launcher.gpus=[0,1]"],
        ["hydra/launcher=ray", "hydra.launcher.address=auto"], ["hydra/launcher=basic"], ["sweep=mapo_beta"],
        ["hydra.verbose=[hydra]"], ["hydra.job.name=train_ddp_process_1"], ["hydra/job_logging=stdout"],
        ["hydra.searchpath=[experiment]"], ["hydra.help.header=mine"],
    ):  # fmt: skip
        assert cli.main(["train", "--cfg", "hydra", *given]) == 0, capsys.readouterr().err
    assert cli.main(["train", "--hydra-help"]) == 0


def test_a_main_config_of_ones_own_is_refused(strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(conf_folder() / "train.yaml", "mine.yaml")
    assert cli.main(["train", "--config-dir", ".", "--config-name", "mine", "--cfg", "job"]) == 2
    assert cli.main(["train", "--config-path", ".", "--cfg", "job"]) == 2
    assert capsys.readouterr().err.count("Add to it: --config-dir") == 2


BROKEN = {
    b"a: [1\nb: 2": "cannot be read",
    b"name: \xff": "cannot be read",
    b"a:\n\t- 1": "cannot be read",
    b"a: 1\na: 2": "found duplicate key",
    b"a: " + b"[" * 5000 + b"]" * 5000: "cannot be read",
    b"a: &a [*a]": "names what it stands in",
    b"a: !!python/object/apply:os.system [touch victim]": "cannot be read",
    b"3": "cannot be read",
    b"# @package _global_\ndefaults: 3": "must be a list",
    b"# @package _global_\ndefaults: [{a: {b: c}}]": "experiment/evil",
    b"# @package _global_\ndefaults: [self]": "cannot be composed",
    b"# @package _global_\nhydra: null": "cannot be composed",
    b"# @package _global_\nhydra: ${model}": "hydra",
    b"# @package _global_\nname: ${seed}${name}": "name cannot be resolved",
    b"# @package _global_\nname: ${nothing:x}": "name cannot be resolved",
    b"# @package _global_\nhydra: {job: {env_copy: [NO_SUCH]}}": "NO_SUCH",
    b"x" * (1 << 19): "bytes, more than",
    b"\n".join([b"a0: &a0 [1, 2, 3, 4, 5]", *(b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9))
                                               for n in range(1, 12))]): "its aliases written out",
    b"# @package _global_\nname: ${learning_rates.l40}\nlearning_rates:\n  l0: 1\n"
    + b"".join(b"  l%d: ${learning_rates.l%d}${learning_rates.l%d}\n" % (n, n - 1, n - 1) for n in range(1, 41)):
    "more than 1000 interpolations",
}  # fmt: skip


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_one_paragraph(content: bytes, strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (strange / "experiment" / "evil.yaml").write_bytes(content)
    assert cli.main(["train", "--config-dir", ".", "experiment=evil", "data.path=none.parquet"]) == 2
    message = capsys.readouterr().err
    assert BROKEN[content] in message
    assert message.startswith("mapolab: ") and message.count("\n") == 1 and "Traceback" not in message
    assert (strange / "victim").read_text() == "precious"


def test_a_defaults_list_cannot_leave_its_folder(strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (strange / "theirs" / "experiment").mkdir(parents=True)
    (strange / "secret.yaml").write_text("token: 1\n")
    (strange / "theirs" / "experiment" / "evil.yaml").write_text(
        "# @package _global_\ndefaults: [/../secret@tiny_base]\nname: x\n"
    )
    assert cli.main(["train", "--config-dir", "theirs", "--cfg", "job", "experiment=evil"]) == 2
    assert "lies outside of the config folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "setting",
    [
        "evaluation: {prompts: 'http://127.0.0.1:9/${oc.env:TOKEN}/x'}",
        "learning_rates: null\nevaluation: {negative_prompt: '${oc.env:TOKEN}'}\n"
        "data: {path: 'http://127.0.0.1:9/${evaluation.negative_prompt}'}",
        "evaluation: {scorers: [{_target_: subject, pictures: 'http://127.0.0.1:9/${oc.select:x,${oc.env:TOKEN}}'}]}",
    ],
)
def test_the_environment_is_sent_nowhere(
    setting: str, strange: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN", "hidden")
    (strange / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{setting}\nname: x\n")
    assert cli.main(["train", "--config-dir", ".", "experiment=evil"]) == 2
    message = capsys.readouterr().err
    assert "an address with a value of the environment" in message and "hidden" not in message
    # A folder of the user's own may be named by it.
    assert cli.main(["train", "--cfg", "job", "--resolve", "output_root=${oc.env:TOKEN}/x"]) == 0


def test_a_sweep_is_counted_before_it_is_made(strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["seed=range(0,1000000000)"], ["seed=range(0,200)", "trainer.max_steps=range(1,200)"],
                  ["seed=range(0,10,0)"], ["seed=range(0,1e9,0.5)"]):  # fmt: skip
        assert cli.main(["train", "-m", *given]) == 2
        assert capsys.readouterr().err.startswith("mapolab: ")
    assert cli.main(["train", "-m", "seed=range(0,1000000000)"]) == 2
    assert "This sweep has 1000000000 jobs (seed 1000000000), more than 10000" in capsys.readouterr().err


def test_a_sweep_takes_no_folder_of_something_else(strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (strange / "linked").mkdir()
    (strange / "linked" / "multirun.yaml").write_text("")
    (strange / "linked" / "logs").symlink_to(strange)
    for folder, reason in ((".", "holds something else"), ("/", "holds something else"), ("linked", "leads out of"),
                           ("y" * 300, "too long")):  # fmt: skip
        assert cli.main(["train", "-m", "seed=0,1", f"hydra.sweep.dir={folder}", "data.path=none.parquet"]) == 2
        message = capsys.readouterr().err
        assert reason in message and message.count("\n") == 1
    assert cli.main(["evaluate", "-m", "models=a,b", "hydra.sweep.dir=/etc"]) == 2
    assert "holds something else" in capsys.readouterr().err
