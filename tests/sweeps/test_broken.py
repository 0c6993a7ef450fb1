"""Sweep folders that are cut, of another program, or a stranger's: what is in them is read, and never run."""

import csv
import json
from pathlib import Path

import pytest

from mapolab import cli
from mapolab.errors import RunError, UserError
from mapolab.job_record import RECORD, note_end
from mapolab.sweeps.folder import Job, SweepFolder
from mapolab.sweeps.outcome import metric
from mapolab.sweeps.process import Processes
from mapolab.sweeps.search import Study
from mapolab.sweeps.space import Dimension

GOOD = {"number": 0, "arguments": ["train", "seed=0"], "run": "runs/x"}
RECORDS = {
    "cut": b'{"number": 0, "argu',
    "not UTF-8": b'{"number": "\xff"}',
    "a list": b"[1]",
    "nested without end": b"[" * 100_000,
    "number of words": json.dumps(GOOD | {"number": "0"}).encode(),
    "a negative number": json.dumps(GOOD | {"number": -1}).encode(),
    "arguments in one": json.dumps(GOOD | {"arguments": "train"}).encode(),
    "no argument": json.dumps(GOOD | {"arguments": []}).encode(),
    "a terminal's signs": json.dumps(GOOD | {"arguments": ["train", "\x1b]0;x\x07"]}).encode(),
    "half a character": json.dumps(GOOD | {"run": "\ud800"}).encode(),
    "an option as Slurm's name": json.dumps(GOOD | {"slurm": "--help"}).encode(),
    "a code of words": json.dumps(GOOD | {"exit_code": "0"}).encode(),
}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    monkeypatch.chdir(tmp_path)
    folder = SweepFolder(Path("sweep"))
    folder.add([Job(number, ["train", f"seed={number}"], Path(f"runs/{number}")) for number in (0, 1)])
    return folder


@pytest.mark.parametrize("kind", RECORDS)
def test_a_broken_record_is_one_paragraph(kind: str, sweep: SweepFolder, capsys, monkeypatch) -> None:
    file = sweep.record_file(0)
    file.write_bytes(RECORDS[kind])
    assert cli.main(["status", "sweep"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"mapolab: {file} ") and "Remove it" in message and message.count("\n") == 1
    with pytest.raises(UserError, match="Remove it"):
        sweep.add([Job(0, ["train"], Path("runs/0"))])
    # A job that has ended says so all the same.
    monkeypatch.setenv(RECORD, str(file))
    note_end(3, "why \x1b[2J \ud800")
    assert json.loads(file.read_text()) == {"exit_code": 3, "message": r"why \x1b[2J \ud800"}


RUNS = {
    "manifest.json": [b"{", b"[]", b'{"status": "finished"', b"\xff"],
    "config.yaml": [b"a: [", b"\xff", b"3", b"trainer: {}", b"trainer: {max_steps: many}"],
    "metrics.csv": [b"step,loss\n0,1\n", b"\xff\n\xff\n", b"step,loss,samples_per_second\nx,y,z\n"],
    "requeues.json": [b"{", b"3"],
    "checkpoints/step-x/a": [b""],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in RUNS for content in RUNS[name]])
def test_a_broken_run_hides_no_other_job(name: str, content: bytes, sweep: SweepFolder, capsys) -> None:
    file = Path("runs/0", name)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert cli.main(["status", "sweep"]) in (0, 2)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    if not shown.err:
        assert "seed=0" in shown.out and "seed=1" in shown.out and "waiting" in shown.out


def test_what_status_shows_is_text(sweep: SweepFolder, capsys, reliability) -> None:
    """Commands of a stranger's record are shown quoted, and nothing of a folder is taken for markup."""
    strange = ["train", "name=$(touch pwned)", "a=[red]x[/]", "b='c d'"]
    sweep.add([Job(0, strange, Path("runs/[bold]x[/]"))])
    record = json.loads(sweep.record_file(0).read_text()) | {"exit_code": 1, "message": "[link=x]why[/link] \x1b[2J"}
    sweep.record_file(0).write_text(json.dumps(record))
    assert cli.main(["status", "sweep"]) == 0
    out = capsys.readouterr().out
    assert "name=$(touch pwned) a=[red]x[/]" in out and "[link=x]why[/link]" in out and "\x1b" not in out
    assert """  job 0: mapolab train 'name=$(touch pwned)' 'a=[red]x[/]' 'b='"'"'c d'"'"''""" in out
    reliability(
        "A sweep folder of a stranger, or a damaged one",
        "its records are shown as text and never run; a damaged one is named",
        f"{len(RECORDS)} records and {sum(map(len, RUNS.values()))} files of runs: one paragraph or a row that says so",
    )


def test_no_cell_of_the_grid_is_a_formula(sweep: SweepFolder) -> None:
    given = ["train", "a==HYPERLINK(1)", "b=+1+1", "c=@x", "d=-1e-3", "e=-x", "f=a,b"]
    sweep.add([Job(0, given, Path("=runs"))])
    with open("sweep/grid.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert [row[key] for key in "abcdef"] == ["'=HYPERLINK(1)", "'+1+1", "'@x", "-1e-3", "'-x", "a,b"]
    assert row["run"] == "'=runs"


def test_a_log_is_not_written_through_a_link(sweep: SweepFolder, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("mine")
    sweep.log_file(0).symlink_to(tmp_path / "profile")
    with pytest.raises(OSError, match="symbolic link"):
        Processes(sweep, to_logs=True).run([Job(0, ["--version"], Path("runs/0"))])
    assert (tmp_path / "profile").read_text() == "mine"


SETTINGS = {"sampler": "tpe", "direction": "minimize", "trials": 3, "parallel": 1, "seed": 0, "metric": "metrics/loss",
            "best_for": None}  # fmt: skip
SPACE = {"objective": Dimension(choices=("sft", "mapo")), "optimizer.lr": Dimension(low=1e-5, high=1e-3, log=True)}


@pytest.mark.parametrize("damage", ["text", "cut", "bytes", "values", "names"])
def test_a_journal_of_something_else_is_refused(damage: str, tmp_path: Path, reliability) -> None:
    pytest.importorskip("optuna")
    journal = tmp_path / "study.journal"
    Study(tmp_path, SPACE, SETTINGS).next_trials()
    text = journal.read_text()
    journal.write_bytes({
        "text": b"hello\n" + text.encode(), "cut": text[: len(text) // 2].encode() + b"\n{", "bytes": b"\xff\xfe\n" * 3,
        "values": text.replace(r'\"mapo\"', r'\"mapo,${oc.env:HOME}\"').replace(r'\"sft\"', r'\"sft,x\"').encode(),
        "names": text.replace('"objective"', '"hydra.launcher.setup"').encode(),
    }[damage])  # fmt: skip
    with pytest.raises(UserError, match=r"study\.journal"):
        Study(tmp_path, SPACE, SETTINGS).next_trials()
    reliability(
        f"The journal of a search is damaged or a stranger's ({damage})",
        "refused by name; only values of the search become overrides",
        "one paragraph, no trial started",
    )


@pytest.mark.parametrize(
    "content", [b"loss\n\xff\n", b"loss\nmany\n", b"x\n1\n", b"", b"loss,a\n1\n2,3,4\n" + b"9" * 200_000]
)
def test_a_figure_that_cannot_be_read_is_told(content: bytes, tmp_path: Path) -> None:
    about = {"status": "finished", "objective": {"name": "mapo"}, "label": "mapo", "seed": 0}
    (tmp_path / "manifest.json").write_text(json.dumps(about))
    (tmp_path / "validation.csv").write_bytes(content)
    with pytest.raises(RunError, match=r"validation\.csv|validation/loss"):
        metric(tmp_path, "validation/loss")
