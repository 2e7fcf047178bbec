"""What a signal does in a run."""

from __future__ import annotations

import os
import signal

import pytest

from mdl_toolkit.errors import ModelError, Stopped
from mdl_toolkit.training.signals import STOP_SIGNALS, StopSignals, agreed_signal


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_is_noted_and_handlers_are_put_back(number: signal.Signals):
    before = [signal.getsignal(n) for n in STOP_SIGNALS]
    with StopSignals() as signals:
        assert not any(signals.flags()) and agreed_signal(signals.flags()) is None
        os.kill(os.getpid(), number)
        assert signals.received == number and agreed_signal(signals.flags()) == number
    assert [signal.getsignal(n) for n in STOP_SIGNALS] == before


def test_a_launcher_that_forwards_a_signal_asks_once(monkeypatch: pytest.MonkeyPatch):
    with StopSignals(launched=True) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT


def test_a_request_that_comes_twice_by_its_nature_is_one():
    """``timeout`` signals its child and then the child's group; a closed terminal has several senders."""
    with StopSignals(launched=False) as signals:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert signals.received == signal.SIGTERM


def test_where_no_step_is_to_be_finished_a_signal_stops():
    with StopSignals() as signals:
        with (
            pytest.raises(Stopped, match="nothing is lost") as stopped,
            signals.stop_at_once("nothing is lost"),
        ):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.value.exit_code == 143
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), signals.stop_at_once("nothing is lost"):
            raise AssertionError("work that is not to begin")


def test_a_signal_that_stops_at_once_is_not_taken_for_an_error_of_what_is_being_done():
    with (  # noqa: PT012 -- a signal is taken as an error where something else is being done
        StopSignals() as signals,
        pytest.raises(Stopped, match="nothing is lost") as stopped,
        signals.stop_at_once("nothing is lost"),
    ):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except Exception as error:  # as code has it that reads a user's files
            raise ModelError(f"config.json: can't be understood: {error}") from None
    assert stopped.value.exit_code == 130
