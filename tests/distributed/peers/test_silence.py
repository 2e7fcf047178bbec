"""Who is waited for, who is back and who is lost: the rules, on a clock of their own."""

from __future__ import annotations

import pytest

from mdl_toolkit.distributed.peers.silence import Change, Loss, Silence, back, named, waiting

HOSTS = ("node-a", "node-a", "node-b", "node-b", "node-c")


def changes(
    silence: Silence, beats: dict[int, set[int]], until: int, start: int = 1
) -> dict[int, list[Change]]:
    """What each look, one a second, gives.

    Args:
        silence: The rules.
        beats: For each process the seconds in which it isn't heard.
        until: The last second.
        start: The first one.
    """
    found = {}
    for second in range(start, until + 1):
        for rank, missing in beats.items():
            if second not in missing:
                silence.heard(rank, second)
        if new := silence.look(second):
            found[second] = new
    return found


def kinds(found: dict[int, list[Change]]) -> list[tuple[int, str, tuple[int, ...]]]:
    return [(second, change.kind, change.ranks) for second, new in found.items() for change in new]


def test_who_is_heard_is_never_told_of() -> None:
    assert changes(Silence([1, 2], 120, 0), {1: set(), 2: set()}, 1000) == {}


def test_a_pause_is_told_of_when_it_is_long_and_when_it_ends() -> None:
    found = changes(Silence([1, 2], 120, 0), {1: set(range(11, 56)), 2: set()}, 300)
    assert kinds(found) == [(25, "quiet", (1,)), (58, "back", (1,))]
    assert found[25][0].seconds == 15 and found[58][0].seconds == 46


def test_a_short_pause_is_nobodys_business() -> None:
    assert changes(Silence([1], 120, 0), {1: set(range(10, 24))}, 60) == {}


def test_silence_ends_in_a_loss_once() -> None:
    found = changes(Silence([1, 2], 20, 0), {1: set(range(11, 500)), 2: set()}, 400)
    assert kinds(found) == [(20, "quiet", (1,)), (30, "silent", (1,))]
    assert found[30][0].seconds == 20


def test_a_host_is_told_of_as_one() -> None:
    """Its processes were last heard within the same second, and come back within the same second."""
    silence = Silence([], 120, 0)
    for rank, first in ((1, 0.0), (2, 0.3), (3, 0.9)):
        silence.expect(rank, first)
    told = [change for quarter in range(4, 80) for change in silence.look(quarter / 4)]
    assert [(change.kind, change.ranks) for change in told] == [("quiet", (1, 2, 3))]
    for rank, again in ((3, 20.1), (1, 20.2), (2, 20.9)):
        silence.heard(rank, again)
    told = [change for quarter in range(84, 100) for change in silence.look(quarter / 4)]
    assert [(change.kind, set(change.ranks)) for change in told] == [("back", {1, 2, 3})]


def test_a_closed_connection_is_opened_again_or_its_process_is_gone() -> None:
    silence = Silence([1, 2], 120, 0)
    silence.closed(1, 0.1)
    assert silence.look(0.5) == []
    silence.heard(1, 0.8)  # it was the network, and the process has connected anew
    assert silence.look(2.0) == []
    silence.closed(1, 2.0)
    silence.closed(2, 2.6)
    assert silence.look(4.4) == []
    (change,) = silence.look(4.6)
    assert change.kind == "gone" and set(change.ranks) == {1, 2}, "both died at once"
    assert silence.look(200.0) == []


def test_who_has_said_goodbye_is_not_missed() -> None:
    silence = Silence([1, 2], 20, 0)
    silence.left(1)
    silence.closed(1, 1)
    silence.heard(1, 1)
    assert kinds(changes(silence, {2: set()}, 100)) == []


def test_a_process_that_stood_still_itself_accuses_nobody() -> None:
    """After SIGCONT, or when its host wakes up: what the others have sent may still be on its way."""
    silence = Silence([1, 2], 20, 0)
    assert changes(silence, {1: set(), 2: set()}, 10) == {}
    assert silence.look(310.0) == []
    assert silence.look(311.0) == []
    silence.heard(1, 311.5)
    found = changes(silence, {1: set(), 2: set(range(312, 400))}, 400, start=312)
    assert kinds(found) == [(320, "quiet", (2,)), (330, "silent", (2,))], "but the others can be lost as well"


def test_standing_still_doesn_t_hide_a_death() -> None:
    silence = Silence([1], 120, 0)
    silence.look(1.0)
    silence.closed(1, 61.0)  # read at wake-up
    assert silence.look(61.0) == []
    assert silence.look(63.6)[0].kind == "gone"


@pytest.mark.parametrize(
    ("ranks", "name"),
    [
        ((2,), "rank 2 (host node-b)"),
        ((2, 3), "host node-b (ranks 2, 3)"),
        ((1, 2, 3), "rank 1 (host node-a), host node-b (ranks 2, 3)"),
        ((4,), "rank 4 (host node-c)"),
    ],
)
def test_processes_are_named_by_host(ranks: tuple[int, ...], name: str) -> None:
    assert named(ranks, HOSTS) == name


def test_many_are_counted() -> None:
    hosts = [f"node-{number}" for number in range(1000)]
    assert named(range(1, 1000), hosts).endswith("rank 4 (host node-4) and 995 more")


def test_what_is_said() -> None:
    assert waiting((2,), HOSTS, 15.2, 120) == (
        "waiting for rank 2 (host node-b): nothing heard for 15 s; it is given up in 105 s (--peer-timeout)"
    )
    assert back((2, 3), HOSTS, 45.4) == "host node-b (ranks 2, 3) is back after 45 s"


@pytest.mark.parametrize(
    ("loss", "own", "words", "not_words"),
    [
        (Loss((2,), True, 3.0, 0), 0, ["rank 2 (host node-b) is gone", "out-of-memory"], []),
        (
            Loss((2,), False, 120.0, 0),
            0,
            ["rank 2 (host node-b) can't be reached", "120 s", "link"],
            ["memory"],
        ),
        (Loss((1,), False, 120.0, 0), 0, ["rank 1 (host node-a)", "SIGSTOP"], ["link"]),
        (Loss((0,), False, 20.0, 2), 2, ["rank 0 (host node-a) can't be reached", "20 s"], ["memory"]),
        (Loss((2, 3), False, 60.0, 0), 3, ["was given up by the others", "stopped"], ["memory"]),
    ],
)
def test_a_loss_is_told_as_what_it_is(loss: Loss, own: int, words: list[str], not_words: list[str]) -> None:
    said = loss.message(HOSTS, own)
    assert all(word in said for word in words), said
    assert not any(word in said for word in not_words), said
