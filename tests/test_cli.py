"""The command line as its users meet it: real processes where the process matters, main() elsewhere."""

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mapolab import __version__, cli
from mapolab.errors import RunError
from mapolab.files import read_json
from mapolab.iterations.process import PhaseProcess
from mapolab.sweeps.slurm import preflight

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


IMPOSTORS = ("torch", "yaml", "mapolab", "hydra", "numpy", "safetensors", "rich", "sitecustomize", "hydra_plugins.evil")


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A folder with modules named like those that mapolab imports; each notes that it was imported."""
    for name in IMPOSTORS:
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r} + ' ')\n")
    return tmp_path


@pytest.mark.slow
def test_no_process_imports_from_the_current_folder(settings: list[str], strange: Path, reliability) -> None:
    two = ["strategy=ddp", "strategy.devices=2", "data.num_workers=1", "data.batch_size=1"]
    process = train(strange, "-m", *settings, *two, "objective=sft", "hydra/launcher=processes")
    assert not (strange / "imported").exists(), (strange / "imported").read_text()
    assert process.returncode == 0, process.stderr
    # Some library may have started it before; of those of `iterate` each is one of ours.
    with contextlib.chdir(strange), pytest.raises(RunError, match="crashed"):
        PhaseProcess().run("export", {}, strange / "round-1", 1)
    assert not (strange / "imported").exists(), (strange / "imported").read_text()
    reliability(
        "The current folder holds a torch.py, a mapolab.py, a hydra_plugins/ and others of a stranger",
        "none is imported: by the command, a sweep's jobs, their ranks and loader processes, a phase of iterate",
        f"{len(IMPOSTORS)} modules, none imported; the sweep finished",
    )


@pytest.mark.faults
def test_ray_imports_nothing_from_the_current_folder(settings: list[str], strange: Path) -> None:
    pytest.importorskip("ray")
    process = train(strange, "-m", *settings, "seed=0,1", "hydra/launcher=ray")
    assert not (strange / "imported").exists(), (strange / "imported").read_text()
    assert process.returncode == 0, process.stderr


def test_the_module_leaves_the_current_folder_out_as_far_as_python_lets_it(strange: Path) -> None:
    (strange / "mapolab.py").unlink()  # which Python has taken before the first line of ours could run
    command = [sys.executable, "-m", "mapolab", "train", "--cfg", "job"]
    subprocess.run(command, cwd=strange, check=True, capture_output=True)
    assert not (strange / "imported").exists(), (strange / "imported").read_text()


@pytest.mark.parametrize("name", ["it's here.sh", "$(touch pwned).sh", "`x`.sh", 'a"b.sh', "a[1],b.sh", "-x", "é.sh"])
def test_a_script_may_have_any_name(name: str, settings: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "_nodes_are_here", lambda: True)  # a folder for temporary files is refused else
    assert cli.main(["train", *settings, "--sbatch", name]) == 0
    assert (tmp_path / name).read_text().startswith("#!/bin/bash")
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "Submit it: " in line]
    assert shlex.split(told.partition("Submit it: ")[2]) == ["sbatch", str(tmp_path / name)]


def test_a_script_replaces_nothing_else(settings: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "_nodes_are_here", lambda: True)
    (tmp_path / "thesis.tex").write_text("years")
    assert cli.main(["train", *settings, "--sbatch", "thesis.tex"]) == 2
    assert "no script that mapolab wrote" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years"


ODD = {
    "optimizer.lr=abc": "give a positive number",
    "optimizer.betas=3": "give 2 numbers",
    "optimizer.betas=[0.9,x]": "give 2 numbers",
    "optimizer.betas=[2,0.9]": "Invalid beta",
    "optimizer.eps=-1": "refuses its settings",
    "optimizer.eps=nan": "give a finite number",
    "optimizer.weight_decay=null": "give a number",
    "optimizer.weight_decay=-1": "refuses its settings",
    "optimizer.fused=maybe": "give true or false",
    "logger=tensorboard logger.name=../../x": "leaves the run's folder",
    "logger=wandb +logger.settings={base_url:'http://127.0.0.1:9'}": "logger.settings is no setting",
    "+logger.experiment=x logger=wandb": "is no setting",
    f"output_root={'x' * 300}": "File name too long",
    f"output_dir={'x' * 300}": "File name too long",
    f"output_dir={'x/' * 3000}": "File name too long",
    f"data.path={'x' * 300}.parquet": "File name too long",
    f"model.pretrained=/{'x' * 300}": "File name too long",
    f"evaluation.prompts={'x' * 300}.txt": "File name too long",
    "output_dir=a\0b": "cannot be read",
    "name=\udcff": "cannot be read",
    "output_root=\udcff": "cannot be read",
    f"seed={'9' * 5000}": "",
    f"data.path={'[' * 3000}{']' * 3000}": "",
    "hydra.sweep.dir=\udcff -m seed=0,1": "cannot be read",
    "--config-dir \0": "not found",
    "--config-dir pyproject.toml": "not found",
    "name=${name}": "cannot be resolved",
    "name=${output_root} output_root=${name}": "cannot be resolved",
    "--sbatch ${name}.sh": "hydra.launcher.script is a value with ${",
    "++hydra=1": "",
    "hydra.mode=FAST": "",
}


@pytest.mark.parametrize("given", ODD, ids=range(len(ODD)))
def test_an_odd_value_is_one_paragraph(given: str, settings: list[str], tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *settings, *given.split(" ")]) == 2
    message = capsys.readouterr().err
    assert ODD[given] in message
    assert message.startswith("mapolab: ") and message.count("\n") == 1 and "Traceback" not in message


@pytest.mark.parametrize("command", ["evaluate models=", "compare runs=", "export to=x run=", "mismatch run="])
def test_a_long_name_is_one_paragraph_in_every_command(command: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(f"{command}{'x' * 300}".split(" ")) == 2
    message = capsys.readouterr().err
    assert message.startswith("mapolab: ") and message.count("\n") == 1
