"""What a signal does: at once, after the step, or nothing."""

import signal
import time

import pytest

from mapolab.errors import Interrupted
from mapolab.training.stopping import StopRequest


def stop(**state: object) -> StopRequest:
    request = StopRequest()
    vars(request).update(state)
    return request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_step_it_stops_at_once(number):
    with pytest.raises(Interrupted, match=f"Stopped by {number.name}") as stopped:
        stop()._handle(number, None)
    assert stopped.value.exit_code == 128 + number


def test_the_running_step_is_finished_and_a_second_interrupt_is_not_waited_for(capfd):
    request = stop(waits=True)
    assert not request.wanted
    request._handle(signal.SIGINT, None)
    request._handle(signal.SIGTERM, None)
    assert request.wanted and request.reason == "by SIGTERM"
    assert capfd.readouterr().err == 2 * "Stopping after this step.\n"
    with pytest.raises(Interrupted):
        request._handle(signal.SIGINT, None)


def test_nothing_ends_a_run_that_saves_itself(capfd):
    request = stop(waits=True, saving=True)
    for _ in range(3):
        request._handle(signal.SIGINT, None)
    assert request.wanted and capfd.readouterr().err == ""


def test_a_time_limit_asks_by_itself():
    early, late = StopRequest(time.time() + 1000), StopRequest(time.time() - 1)
    assert not early.wanted and late.wanted
    assert late.reason == "before the job's time limit" and early.reason == "by a signal to another of its processes"
    assert late.interrupted().exit_code == 128 + signal.SIGTERM
