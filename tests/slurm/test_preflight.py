"""What is refused before submission and can be told without Slurm: places that nodes cannot see, memory."""

from pathlib import Path

import pytest

from mapolab.config.compose import compose
from mapolab.errors import UserError
from mapolab.sweeps.slurm import preflight
from mapolab.sweeps.slurm.preflight import check_memory, check_visible


def test_a_folder_of_this_machine_only_is_refused(monkeypatch):
    monkeypatch.delenv("SLURM_CONF", raising=False)  # no cluster answers, so the nodes are elsewhere
    for place in ("/tmp/runs", "/dev/shm/runs", "/var/tmp/runs"):
        with pytest.raises(UserError, match=r"lies on this machine only.*Set output_root"):
            check_visible(Path(place))
    monkeypatch.setattr(preflight, "_file_system", lambda path: "nfs4")
    check_visible(Path("/srv/not-there-yet/runs"))


def test_a_run_that_does_not_fit_the_gpu_is_refused_by_its_plan():
    small, large = (compose("train", [f"data.batch_size={pairs}"]) for pairs in (16, 20000))
    check_memory([large], None)  # nobody said what GPU it is
    with pytest.raises(UserError, match=r"objective=mapo needs .* GiB .*The largest batch that fits is \d+"):
        check_memory([small, large], "l4")
