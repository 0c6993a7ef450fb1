"""The command line as its users meet it: real processes where the process matters, main() elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mapolab import __version__, cli
from mapolab.files import read_json

MAPOLAB = Path(sys.executable).with_name("mapolab")


def shell(script: str, cwd: Path | None = None, **environment: str) -> str:
    """The output of a bash script in which `mapolab` is the installed command."""
    environment = os.environ | {"PATH": f"{MAPOLAB.parent}{os.pathsep}{os.environ['PATH']}"} | environment
    process = subprocess.run(["bash", "-c", script], env=environment, cwd=cwd, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, mapolab.cli as c; c.main(['--help']);"
        "print([m for m in ('torch', 'hydra', 'rich') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "mapolab compare" in output
    assert output.endswith("[]\n")


def test_a_config_is_checked_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, mapolab.cli as c; print(c.main(['train', 'data.path=no.parquet', 'model.pretrained=a/b']));"
        "print([m for m in ('torch', 'lightning', 'diffusers') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert process.stdout == "2\n[]\n"
    assert process.stderr.count("\n") == 1
    assert "data.path=no.parquet does not exist" in process.stderr


def test_a_mistake_found_after_all_imports_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mapolab", "evaluate", "models=builtin:tiny_twin", "prompts=partiprompt"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith("mapolab: prompts=partiprompt: Did you mean partiprompts?")
    assert process.stderr.count("\n") == 1


def test_the_module_is_the_command() -> None:
    expected = f"mapolab {__version__}\n"
    assert shell("mapolab --version") == shell(f"{sys.executable} -m mapolab --version") == expected


def test_the_help_of_a_command_is_hydras_under_our_header(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("mapolab train: aligns a model")
    assert "objective: cdpo, ddpo, diffusion_dpo, diffusion_kto" in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    {
        "trian": "Did you mean train?",
        "train objective=mapoo": "Did you mean mapo? Available: cdpo, ddpo,",
        "train objectve=mapo": "Did you mean objective?",
        "train trainer.max_step=3": "Did you mean trainer.max_steps?",
        "train optimizer.weight_deca=3": "Did you mean optimizer.weight_decay?",
        "train optimizer.amsgrad=true": "+optimizer.amsgrad=",
        "train seed=0,1": "add -m",
        "train output_dir=a=b": "quote a value",
        "train experiment=": "experiment",
        "train --cfg job trainer.foo=1": "There is no key trainer.foo",
        "train --cfg job -m": "Only one of",
        f"train -m seed=0,1 name={'x' * 300}": "cannot name a folder",
        "train --experimental-rerun job.pickle": "would load a pickle",
        "train --config-dir no/such/folder": "not found",
        "evaluate": "models has no value",
        "compare run=x": "Did you mean runs?",
        "compare runs=${x}": r"Correct the ${...} in it; for these signs themselves write \${...}.",
        r"compare runs=\${x}": "There is no run at ${x}",
        "compare runs=it's": "quotes or brackets",
        "compare runs='a[1]'": "There is no run at a[1]",
    }.items(),
)
def test_a_mistake_is_one_paragraph_and_exit_code_2(
    arguments: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.startswith("mapolab: ")
    assert message.count("\n") == 1


def test_showing_the_config_needs_none_of_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--cfg", "job", "--resolve", "data.path=/no/such.parquet", "model.pretrained=/none"]
    assert cli.main(arguments) == 0
    assert "path: /no/such.parquet" in capsys.readouterr().out


def test_a_folder_of_ones_own_adds_to_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: paintings\nname: mine\ntrainer:\n  max_steps: 7\n"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "paintings.yaml").write_text(
        "defaults: [parquet_pairs]\npath: /data/paintings\nresolution: 512\n"
    )
    assert cli.main(["train", "--config-dir", str(tmp_path), "--cfg", "job", "experiment=mine", "objective=sft"]) == 0
    output = capsys.readouterr().out
    for line in ("name: mine", "path: /data/paintings", "resolution: 512", "max_steps: 7", "name: sft", "cache: false"):
        assert line in output


def completions(line: str) -> list[str]:
    """What bash offers after `line` and a tab, by the function that `-sc install=bash` gives it."""
    return shell(
        'eval "$(mapolab -sc install=bash)"; COMP_POINT=${#COMP_LINE}; words=($COMP_LINE);'
        '[[ $COMP_LINE == *" " ]] && COMP_CWORD=${#words[@]} || COMP_CWORD=$((${#words[@]} - 1));'
        'hydra_bash_completion; echo "${COMPREPLY[@]}"; complete -p mapolab >&2',
        COMP_LINE=line,
    ).split()


@pytest.mark.parametrize(
    ("line", "offered"),
    {
        "mapolab ": [*cli.COMMANDS, "status"],
        "mapolab tr": ["train"],
        "mapolab train obj": ["objective.", "objective=", "objective_betas="],
        "mapolab train objective=map": ["objective=mapo", "objective=mapo_reference"],
        "mapolab train objective=sft trainer.max_": ["trainer.max_steps="],
        "mapolab evaluate gui": ["guidance_scale="],
        "mapolab trainn se": [],
    }.items(),
)
def test_bash_completes(line: str, offered: list[str]) -> None:
    assert sorted(completions(line)) == sorted(offered)


@pytest.mark.parametrize("command", ["mapolab --help", "mapolab train --help", "mapolab train --cfg job"])
def test_a_reader_that_leaves_early_is_no_crash(command: str, tmp_path: Path) -> None:
    assert shell(f'{command} 2> errors | true; echo "${{PIPESTATUS[0]}}"; cat errors', cwd=tmp_path) == "141\n"


def test_a_crash_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setitem(cli.COMMANDS, "evaluate", ("math", "sqrt"))  # which cannot work on a config
    before = os.environ.get("HYDRA_FULL_ERROR")
    with pytest.raises(TypeError, match="real number"):
        cli.main(["evaluate", f"models={tmp_path}"])
    assert os.environ.get("HYDRA_FULL_ERROR") == before


@pytest.fixture
def settings(tiny_pipeline_folder: Path, pairs_file: Path) -> list[str]:
    """Two steps on the random pipeline."""
    return [
        f"model.pretrained={tiny_pipeline_folder}",
        f"data.path={pairs_file}",
        "data.resolution=16",
        "data.batch_size=2",
        "trainer.max_steps=2",
        "strategy.accelerator=cpu",
    ]


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MAPOLAB, "train", *arguments], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_a_sweep_says_where_each_job_runs_and_the_same_command_finds_the_runs(
    settings: list[str], tmp_path: Path
) -> None:
    sweep = ("-m", *settings, "objective=sft,mapo", "seed=4")
    first, second = train(tmp_path, *sweep), train(tmp_path, *sweep)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    runs = sorted((tmp_path / "outputs" / "emoji_style").glob("*-seed4-*"))
    assert [run.name.split("-")[0] for run in runs] == ["mapo", "sft"]
    for run in runs:
        assert str(run.relative_to(tmp_path)) in first.stdout
        assert read_json(run / "manifest.json")["restarts"] == 0
        assert list((run / "unet").glob("*.safetensors"))
    assert second.stdout.count("is finished") == 2
    # Hydra leaves one file of its own, the sweep's; none in the run folders or beside the command.
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.slow
def test_a_mistake_in_one_job_ends_the_sweep(settings: list[str], tmp_path: Path) -> None:
    process = train(tmp_path, "-m", *settings, "optimizer.lr=-1,1e-3")
    assert process.returncode == 2
    assert "optimizer.lr is -1" in process.stderr
    assert "Traceback" not in process.stderr
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.slow
def test_a_run_that_breaks_down_ends_with_exit_code_1_and_no_traceback(settings: list[str], tmp_path: Path) -> None:
    process = train(tmp_path, *settings, "output_dir=here", "optimizer.lr=1e30", "trainer.max_steps=5")
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    assert "position" in process.stderr
    assert read_json(tmp_path / "here" / "manifest.json")["status"] == "failed"
