"""A signal to one process of a run is heard by the others."""

from __future__ import annotations

import os
import signal
import time

import pytest
from torch.distributed import HashStore, PrefixStore  # type: ignore[attr-defined]

from mdl_toolkit.distributed import stops
from mdl_toolkit.terminal.interrupts import Interrupted, Listener


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stops, "INTERVAL", 0.02)
    monkeypatch.setattr(stops, "PATIENCE", 0.02)


def test_a_signal_is_passed_on():
    store = HashStore()
    with Listener(launched=False) as listener, stops.stops_passed_on(store):
        listener.answer = lambda _: None
        os.kill(os.getpid(), signal.SIGUSR2)
        assert int(PrefixStore("stops", store).get("signal")) == signal.SIGUSR2


def test_one_that_another_process_got_ends_what_this_one_does():
    store = HashStore()
    PrefixStore("stops", store).set("signal", str(int(signal.SIGUSR2)))
    with Listener(launched=False), stops.stops_passed_on(store), pytest.raises(Interrupted) as caught:
        time.sleep(30)
    assert caught.value.number == signal.SIGUSR2


def test_what_this_process_gets_itself_after_that_is_the_same_request():
    """However late it comes: a scheduler may need seconds to tell all processes of a large job."""
    store = HashStore()
    PrefixStore("stops", store).set("signal", str(int(signal.SIGTERM)))
    noted: list[int] = []
    with Listener(launched=False) as listener, stops.stops_passed_on(store):
        listener.answer, listener.again = noted.append, lambda _: noted.append(-1)
        until = time.monotonic() + 30
        while not noted and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(1.2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted == [signal.SIGTERM]
        time.sleep(1.2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted == [signal.SIGTERM, -1], "and the next one is the second"


def test_a_process_that_ends_soon_tells_no_other(monkeypatch: pytest.MonkeyPatch):
    """The launcher may have told it to end, because another one has failed."""
    monkeypatch.setattr(stops, "PATIENCE", 0.5)
    store = HashStore()
    with Listener(launched=False) as listener:
        with stops.stops_passed_on(store):
            listener.answer = lambda _: None
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        time.sleep(0.6)
        assert not PrefixStore("stops", store).check(["signal"])


def test_after_the_block_nothing_is_heard():
    store = HashStore()
    with Listener(launched=False) as listener:
        with stops.stops_passed_on(store):
            pass
        PrefixStore("stops", store).set("signal", str(int(signal.SIGTERM)))
        time.sleep(0.2)
        assert listener.received is None
