"""When a preempted run does not ask Slurm for another start; nothing here needs Slurm."""

import pytest

from mapolab.errors import Interrupted, RunError
from mapolab.runs import RunFolder
from mapolab.training.requeue import Requeue
from mapolab.training.slurm import SlurmJob, job_name


@pytest.fixture
def requeue(tmp_path):
    """A run that was requeued after steps 4 and 7."""
    folder = RunFolder(tmp_path)
    folder.note_requeues([{"time": "", "job": "1", "step": step, "reason": ""} for step in (4, 7)])
    return Requeue(folder, SlurmJob("1_2", None), most=2)


def test_without_a_step_since_the_last_time_it_says_so(requeue):
    with pytest.raises(RunError, match="no step between two requeues: both times it stood at step 7"):
        requeue.ask(7, "by SIGTERM")
    assert len(requeue.folder.requeues()) == 2


def test_it_asks_no_more_often_than_allowed(requeue):
    with pytest.raises(Interrupted, match=r"done 2 times, as often as preemption\.max_requeues allows"):
        requeue.ask(9, "by SIGUSR1")
    assert not requeue.accepted


def test_outside_of_slurm_there_is_nothing_to_ask(tmp_path):
    requeue = Requeue(RunFolder(tmp_path), None, most=2)
    requeue.ask(3, "by SIGTERM")
    assert not requeue.accepted and requeue.deadline(120) is None


def test_jobs_are_named_as_scontrol_knows_them():
    assert job_name({"SLURM_JOB_ID": "7"}) == "7"
    assert job_name({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}) == "7_2"
    assert job_name({}) is None
