"""Whose a folder is, before a command writes there; locks; names that become files; what a disk refuses."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mapolab import cli, files
from mapolab.errors import RunError, UserError, disk_fault
from mapolab.output import CACHE, COMPARISON, EXPORT, KINDS, MODEL, PAIRS, ROUNDS, RUN, SWEEP, TINY_BASE, OutputFolder
from mapolab.paths import file_name_fault

# A whole manifest of each kind, as small as it may be.
MANIFESTS = {
    RUN: {"status": "finished", "objective": {"name": "sft"}, "seed": 0, "started": "2026-01-31T12:00:00+00:00"},
    MODEL: {"status": "finished", "objective": {"name": "base"}, "label": "base", "seed": None},
    TINY_BASE: {"machine": {}},
    PAIRS: {"settings": {"recipe": "ranked"}},
    ROUNDS: {"settings": {"ranking": {}}},
    COMPARISON: {"mismatch": None},
    EXPORT: {"settings": {"formats": ["unet"]}, "files": {}},
    CACHE: {"data_fingerprint": "1a", "encoder_identity": "2b"},
    SWEEP: {"number": 0, "arguments": ["train"]},
}
KIND = pytest.mark.parametrize("kind", MANIFESTS, ids=lambda kind: kind.holds)


def put_manifest(folder: Path, kind) -> Path:
    file = folder / kind.manifest.replace("*", "0")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(MANIFESTS[kind]))
    return file


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@KIND
def test_what_a_command_made_before_is_found_again(kind, tmp_path):
    put_manifest(tmp_path, kind)
    (tmp_path / "more").mkdir()
    OutputFolder(tmp_path, kind).check()


@KIND
def test_a_folder_of_anything_else_is_refused_and_not_touched(kind, tmp_path):
    for place in ("/", "/etc", str(Path.home()), str(Path(__file__).parents[1])):
        if os.listdir(place):
            with pytest.raises(UserError, match=f"Give another {kind.option}"):
                OutputFolder(Path(place), kind).check()
    for other in [one for one in MANIFESTS if one is not kind]:
        folder = tmp_path / other.holds
        put_manifest(folder, other)
        with pytest.raises(UserError), OutputFolder(folder, kind).locked():
            pytest.fail("it was entered")
        assert len(content(folder)) == 1
    file = put_manifest(tmp_path / "cut", kind)
    file.write_text(file.read_text()[:-3])
    (tmp_path / "cut" / "more").mkdir()
    with pytest.raises(UserError, match="is no whole one"):
        OutputFolder(tmp_path / "cut", kind).check()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        OutputFolder(tmp_path / "file", kind).check()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="symbolic link to what is not there"):
        OutputFolder(tmp_path / "nowhere", kind).check()


@KIND
def test_what_a_killed_command_left_before_its_manifest_is_continued(kind, tmp_path):
    for name in (".lock", ".0123456789ab.tmp", ".unet.01234567.tmp", *kind.early):
        (tmp_path / name.replace("*", "x")).touch()
    with OutputFolder(tmp_path, kind).locked():
        pass


@pytest.mark.parametrize(
    ("outer", "inner", "kind"),
    [
        (RUN, "checkpoints/mine", RUN), (RUN, "mine", RUN), (RUN, "unet/export", EXPORT), (PAIRS, "mine", RUN),
        (EXPORT, "comparison", COMPARISON), (ROUNDS, "mine", COMPARISON), (MODEL, "evaluation/x", RUN),
        (SWEEP, "jobs/mine", RUN), (CACHE, "mine", PAIRS),
    ],
    ids=str,
)  # fmt: skip
def test_no_folder_lies_where_another_is_replaced(outer, inner, kind, tmp_path):
    put_manifest(tmp_path / "outer", outer)
    with pytest.raises(UserError, match=f"lies within .*outer, which is {outer.holds}"):
        OutputFolder(tmp_path / "outer" / inner, kind).check()


def test_an_export_may_lie_beside_a_runs_own_files(tmp_path):
    put_manifest(tmp_path / "run", RUN)
    OutputFolder(tmp_path / "run" / "export", EXPORT).check()
    put_manifest(tmp_path / "rounds", ROUNDS)
    OutputFolder(tmp_path / "rounds" / "round-1" / "pairs", PAIRS).check()


def test_links_in_a_folder_lead_nowhere_else(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    put_manifest(run, RUN)
    elsewhere.mkdir()
    (run / "checkpoints").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"checkpoints leads out of .*run, to .*elsewhere"):
        OutputFolder(run, RUN).check()
    (run / "checkpoints").unlink()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    output = OutputFolder(run, RUN)
    (run / ".lock").symlink_to(victim)
    with pytest.raises(OSError) as caught:
        output.lock.acquire()
    assert isinstance(disk_fault(caught.value), UserError)
    assert victim.read_text() == "mine" and not output.lock.is_held()


def test_a_removed_lock_lets_no_two_work_on(tmp_path):
    first, second = OutputFolder(tmp_path, RUN), OutputFolder(tmp_path, RUN)
    with first.locked():
        assert second.lock.is_held()
        with pytest.raises(UserError, match="Another process is working on"), second.locked():
            pass
        first.lock.check()
        (tmp_path / ".lock").unlink()
        with pytest.raises(RunError, match="was removed or replaced while this process worked"):
            first.lock.check()
        with second.locked():
            second.lock.check()
            assert first.lock.is_lost()


def test_unfinished_files_are_swept_unless_somebody_writes_them(tmp_path):
    left, foreign = tmp_path / ".0123456789ab.tmp", tmp_path / ".mine.tmp"
    left.touch()
    foreign.touch()
    with files._written(tmp_path / "file", b"x") as held:
        files.sweep(tmp_path)
        assert held.exists() and foreign.exists() and not left.exists()
    files.write_text(tmp_path / "file", "y")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mine.tmp", "file"]


def test_of_files_written_together_the_last_is_absent_until_all_are_there(tmp_path, monkeypatch):
    files.write_together(tmp_path, {"settings": "1", "table": "1"})
    replace, calls = os.replace, []

    def killed_at_the_second(*names):
        calls.append(names)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr(os, "replace", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        files.write_together(tmp_path, {"settings": "2", "table": "2"})
    monkeypatch.undo()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"settings": "2"}
    # A disk that is full before anything has its place.
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError) as caught:
        files.write_together(tmp_path, {"settings": "3", "table": "3"})
    assert caught.value.filename == str(tmp_path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"settings": "2"}


@pytest.mark.parametrize(
    "name",
    ["", " ", "../../evil", "/etc/evil", "a/b", "a\\b", "..", ".hidden", "-rf", "~", "a\0b", "a\nb", "x" * 101,
     "\u00e4" * 101, "CON", "nul.txt", "lpt1", "a:b", "a*", "a?", "end.", "end "],
)  # fmt: skip
def test_names_that_cannot_be_files(name):
    assert file_name_fault(name) is not None


@pytest.mark.parametrize("name", ["fox", "My style [v2]", "f\u00fcchse", "console", "a.b-c_d+e", "x" * 100])
def test_names_that_can(name):
    assert file_name_fault(name) is None


@pytest.mark.parametrize(
    ("number", "kind", "fix"),
    [
        (errno.ENOSPC, RunError, "Make room"), (errno.EDQUOT, RunError, "Make room"), (errno.EIO, RunError, "Look at"),
        (errno.EROFS, RunError, "mounted for writing"), (errno.EACCES, UserError, "the rights"),
        (errno.ENAMETOOLONG, UserError, "shorter"), (errno.ENOTDIR, UserError, "Move"),
        (errno.EISDIR, UserError, "Move"),
    ],
)  # fmt: skip
def test_what_a_disk_refuses_names_the_path_and_the_fix(number, kind, fix):
    fault = disk_fault(OSError(number, os.strerror(number), "/a/b"))
    assert type(fault) is kind and "/a/b cannot be used" in str(fault) and fix in str(fault)
    assert disk_fault(ConnectionRefusedError(errno.ECONNREFUSED, "no")) is None
    assert disk_fault(OSError("no number")) is None and disk_fault(FileNotFoundError(errno.ENOENT, "x", "y")) is None


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written: a mount for root, whom permissions do not stop."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("root, and nothing can be mounted")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def commands(folder: Path, model: Path, pairs: Path, prompts: Path, run: Path) -> dict[str, list[str]]:
    """A command line of each command that writes, which writes to `folder`."""
    trained = ["data=parquet_pairs", f"data.path={pairs}", "data.resolution=16", "evaluation=pictures",
               f"model.pretrained={model}"]  # fmt: skip
    ranked = [f"prompts={prompts}", "images_per_prompt=2", "ranked_by=[style]"]
    return {
        "train": ["train", *trained, f"output_dir={folder}"],
        "tiny base": ["train", "experiment=tiny_base", f"output_dir={folder}"],
        "make-pairs": ["make-pairs", "recipe=ranked", f"models={model}", *ranked, f"output_dir={folder}"],
        "iterate": ["iterate", f"model.pretrained={model}", "evaluation=pictures", *ranked, f"output_dir={folder}"],
        "export": ["export", f"run={run}", f"to={folder}"],
        "compare": ["compare", f"runs={run}", f"output_dir={folder}"],
        "sweep": ["train", *trained, "-m", "seed=0,1", f"hydra.sweep.dir={folder}"],
    }


NAMES = [*commands(*[Path()] * 5)]


@pytest.fixture
def command_lines(tiny_pipeline_folder, pairs_file, tmp_path):
    """command_lines(name, folder): the arguments of a command that writes to `folder`."""
    (tmp_path / "prompts.txt").write_text("a fox\n")
    put_manifest(tmp_path / "run", RUN)

    def lines(name: str, folder: Path) -> list[str]:
        given = tiny_pipeline_folder, pairs_file, tmp_path / "prompts.txt", tmp_path / "run"
        return commands(folder, *given)[name]

    return lines


@pytest.mark.parametrize("name", NAMES)
def test_no_command_writes_into_a_model_or_another_folder(
    name, command_lines, tiny_pipeline_folder, tmp_path, monkeypatch, capsys, reliability
):
    """As `output_dir=` the base model itself, whose unet/ was replaced."""
    monkeypatch.chdir(tmp_path)
    model = shutil.copytree(tiny_pipeline_folder, tmp_path / "model")
    before = content(model)
    assert cli.main(command_lines(name, model)) == 2
    told = capsys.readouterr().err
    assert "is not empty: it holds something else" in told and told.count("\n") == 1
    assert content(model) == before
    reliability(
        f"mapolab {name}: its output folder is a model, or any other folder that it did not make",
        "refused before anything in it is touched",
        "exit code 2 with the reason; every file as it was",
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_cannot_be_written_is_one_paragraph(
    name, command_lines, read_only, tmp_path, monkeypatch, capsys, reliability
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(command_lines(name, read_only / "new")) in (1, 2)
    told = capsys.readouterr().err
    assert "mapolab: " in told and str(read_only) in told and told.count("\n") == 1
    assert "Traceback" not in told
    reliability(
        f"mapolab {name}: its output folder is on a read-only disk",
        "one paragraph that names the folder and the fix",
        "one paragraph, nothing written",
    )


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "..", "-rf", "nul", "x" * 200])
def test_an_export_is_named_within_its_folder(name, command_lines, tmp_path, monkeypatch, capsys, reliability):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command_lines("export", tmp_path / "a" / "b"), f"name='{name}'"]) == 2
    told = capsys.readouterr().err
    assert "cannot name a file" in told and told.count("\n") == 1
    assert not (tmp_path / "a").exists()
    reliability(
        "mapolab export name=../../evil, or any name that leads out of its folder",
        "refused before anything is written",
        "exit code 2 with the reason",
    )


def test_every_kind_is_told_from_every_other(tmp_path):
    for kind in MANIFESTS:
        put_manifest(tmp_path / kind.holds, kind)
        assert [one.holds for one in KINDS if one.is_at(tmp_path / kind.holds)] == [kind.holds]
