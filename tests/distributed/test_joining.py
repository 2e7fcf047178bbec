"""Processes that meet say who is missing, and hear of those that ended before they came."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from mdl_toolkit.distributed.environment import ProcessRank
from mdl_toolkit.distributed.hosts import host_name, shown_ranks
from mdl_toolkit.distributed.joining import early, meeting, notices
from mdl_toolkit.distributed.joining.meeting import meet, why_not_joined
from mdl_toolkit.distributed.joining.notices import Notice, Notices, OtherEnded
from mdl_toolkit.distributed.joining.roster import roster
from mdl_toolkit.distributed.rendezvous import NotComeError, agree_on_start, ready_processes
from mdl_toolkit.distributed.waiting import WaitingMessage
from mdl_toolkit.errors import DataError, MdlError, PeerLostError, SettingsError
from mdl_toolkit.terminal.interrupts import Interrupted

SOON = timedelta(seconds=30)
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0"}
LAUNCHERS = ("TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "GLOO_")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variables of a launcher, before and after, and a process that hasn't begun to join."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    monkeypatch.setitem(early._state, "joins", False)
    monkeypatch.setattr(notices, "_LOOK_SECONDS", 0.0)
    yield
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        os.environ.pop(name)


class TestRoster:
    @pytest.mark.parametrize(
        ("ranks", "said"),
        [
            ([3], "rank 3"),
            ([1, 0], "ranks 0, 1"),
            (range(8), "ranks 0 to 7"),
            ([0, 1, 4, 5, 6, 9], "ranks 0, 1, 4 to 6, 9"),
            (range(0, 40, 2), "ranks 0, 2, 4, 6, 8, 10, 12, 14, …"),
        ],
    )
    def test_ranks(self, ranks: Sequence[int], said: str) -> None:
        assert shown_ranks(ranks) == said

    def test_ready_ones_are_named_by_host(self) -> None:
        assert roster({1: "node-a", 0: "node-a"}, 4) == "ready: host node-a (ranks 0, 1); missing: ranks 2, 3"
        assert roster({2: "node-b"}, 3) == "ready: host node-b (rank 2); missing: ranks 0, 1"
        assert roster({}, 2) == "ready: none; missing: ranks 0, 1"


class TestNotices:
    def test_who_waits_ends_with_it_and_one_of_a_host_prints_it(self) -> None:
        store = HashStore()
        waiting = [Notices(store, False, host) for host in ("b", "b", "c")]
        number = Notices(store, False, "a").leave(Notice(0, "a", 2, "rank 0 (host a): --lr abc"))
        heard = []
        for each in waiting:
            with pytest.raises(OtherEnded, match="--lr abc") as ended:
                each.raise_first()
            heard.append((ended.value.notice.code, ended.value.prints))
        assert heard == [(2, True), (2, False), (2, True)]
        assert number is not None
        Notices(store, False, "a").wait_until_heard(number, 3, time.monotonic() + 20)
        assert Notices(store, False, "d").leave(Notice(4, "d", 1, "too late")) is None, "one cause is enough"

    def test_its_own_host_has_printed_it_already(self) -> None:
        store = HashStore()
        Notices(store, False, "a").leave(Notice(0, "a", 2, "wrong"))
        with pytest.raises(OtherEnded) as ended:
            Notices(store, False, "a").raise_first()
        assert not ended.value.prints

    def test_without_an_agent_all_there_is_is_of_this_attempt(self) -> None:
        store = HashStore()
        Notices(store, False, "a").leave(Notice(0, "a", 143, "stopped", signal=True))
        with pytest.raises(OtherEnded):
            Notices(store, False, "b").raise_first()

    def test_one_that_was_killed_while_it_wrote_hides_no_other(self) -> None:
        store = HashStore()
        waiting = Notices(store, False, "b")
        waiting._store.add("count", 1)
        waiting.raise_first()
        Notices(store, False, "a").leave(Notice(0, "a", 2, "wrong"))
        with pytest.raises(OtherEnded, match="wrong"):
            waiting.raise_first()

    def test_in_torchruns_store_those_of_earlier_attempts_are_over(self) -> None:
        store = HashStore()
        Notices(store, True, "a").leave(Notice(0, "a", 2, "wrong"))
        late = Notices(store, True, "c")  # a host that came late, in the same attempt
        with pytest.raises(OtherEnded):
            Notices(store, True, "b").raise_first()
        with pytest.raises(OtherEnded):
            late.raise_first()
        for host in "abc":  # started again: the notice has ended a process of each
            Notices(store, True, host).raise_first()
        Notices(store, True, "d").forget()
        Notices(store, True, "e").raise_first()  # joined after an attempt was complete

    def test_a_signal_of_torchruns_own_begins_another_attempt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = HashStore()
        before = Notices(store, True, "b")
        Notices(store, True, "a").leave(Notice(0, "a", 143, "stopped by SIGTERM", signal=True))
        after = Notices(store, True, "b")
        before.raise_first()
        monkeypatch.setattr(notices, "_BELIEVE_SECONDS", 0.0)
        with pytest.raises(OtherEnded, match="SIGTERM"):
            before.raise_first()
        after.raise_first()


class TestWhoTells:
    @pytest.mark.parametrize(
        ("process", "environ", "failure", "stop"),
        [
            (ProcessRank(), {}, False, False),
            (ProcessRank(0, 2, 0, 2), {}, True, True),  # by hand: nobody ends the other one
            (ProcessRank(0, 2, 0, 2), TORCHRUN, False, False),
            (ProcessRank(2, 4, 0, 2), TORCHRUN, True, True),
            (ProcessRank(3, 4, 1, 2), TORCHRUN, True, False),
            # torchrun starts it again, and all others with it
            (ProcessRank(2, 4, 0, 2), {**TORCHRUN, "TORCHELASTIC_MAX_RESTARTS": "1"}, False, True),
        ],
    )
    def test_where_the_others_would_wait_in_vain(
        self,
        process: ProcessRank,
        environ: dict[str, str],
        failure: bool,
        stop: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert early.is_to_tell(process, signal=False) == failure
        assert early.is_to_tell(process, signal=True) == stop

    @pytest.mark.parametrize(
        ("error", "cause", "code"),
        [
            (
                SettingsError(["--lr abc: a number expected", "--seed x"]),
                "--lr abc: a number expected\n--seed x",
                2,
            ),
            (DataError("train.csv: no rows"), "train.csv: no rows", 2),
            (Interrupted(signal.SIGTERM), "stopped by SIGTERM", 143),
            (KeyboardInterrupt(), "stopped by SIGINT", 130),
            (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero", 1),
        ],
    )
    def test_what_is_told_and_only_once(
        self, error: BaseException, cause: str, code: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[tuple[str, int, bool]] = []
        monkeypatch.setattr(early, "_tell", lambda process, *what: told.append(what))
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(type(error)), early.told_to_others():
            raise error
        early.tell_others(error)
        assert told == [(cause, code, isinstance(error, KeyboardInterrupt))]

    def test_a_program_that_trains_twice_tells_of_its_second_run_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[str] = []
        monkeypatch.setattr(early, "_tell", lambda process, cause, *what: told.append(cause))
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with early.told_to_others():
            early.begin_joining()
        with pytest.raises(DataError), early.told_to_others():
            raise DataError("train.csv: no rows")
        assert told == ["train.csv: no rows"]

    def test_a_broken_off_import_of_torch_is_not_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It fails in the strangest ways, and would hide why this process ends."""
        monkeypatch.setattr(early, "_tell", lambda *what: pytest.fail("it would import torch"))
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.delitem(sys.modules, "torch")
        early.tell_others(Interrupted(signal.SIGTERM))

    def test_whatever_goes_wrong_in_telling_hides_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*what: object) -> None:
            raise SystemError("bad call flags")

        monkeypatch.setattr(early, "_tell", broken)
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(DataError, match="no rows"), early.told_to_others():
            raise DataError("train.csv: no rows")

    def test_a_launch_that_makes_no_sense_is_told_to_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(early, "_tell", lambda *what: pytest.fail("whom?"))
        monkeypatch.setenv("RANK", "x")
        early.tell_others(SettingsError(["RANK=x"]))


class Launch:
    """Some threads that meet as the processes of a launch do, on the store of one of them."""

    def __init__(self, world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=SOON)
        self.world_size = world_size
        self.ended: dict[int, BaseException | None] = {}
        self.threads: list[threading.Thread] = []
        monkeypatch.setattr(
            meeting, "open_store", lambda *_: TCPStore("127.0.0.1", self.server.port, timeout=SOON)
        )

    def start(self, rank: int, problem: MdlError | None = None, local_world_size: int = 1) -> None:
        process = ProcessRank(rank, self.world_size, rank % local_world_size, local_world_size)

        def join() -> None:
            try:
                meet(process, WaitingMessage("here"), lambda _: None, problem)
                self.ended[rank] = None
            except BaseException as error:
                self.ended[rank] = error

        self.threads.append(threading.Thread(target=join))
        self.threads[-1].start()

    def wait(self) -> dict[int, BaseException | None]:
        for thread in self.threads:
            thread.join(60)
        return self.ended


def test_a_process_that_cant_take_part_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = Launch(3, monkeypatch)
    launch.start(2)
    launch.start(1, DataError("train.csv: no rows"))
    launch.start(0)
    ended = launch.wait()
    said = f"rank 1 (host {host_name()}): train.csv: no rows"
    assert isinstance(ended[1], DataError) and str(ended[1]) == said
    for rank in (0, 2):
        error = ended[rank]
        assert isinstance(error, OtherEnded) and error.notice == Notice(1, host_name(), 2, said)


def test_beside_rank_0_it_lets_that_one_speak_first(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = Launch(2, monkeypatch)
    launch.start(1, DataError("train.csv: no rows"), local_world_size=2)
    store = TCPStore("127.0.0.1", launch.server.port, timeout=SOON)
    while 1 not in ready_processes(store):
        time.sleep(0.01)
    Notices(store, False).leave(Notice(0, host_name(), 2, "rank 0 (host a): train.csv: no rows"))
    ended = launch.wait()[1]
    assert isinstance(ended, OtherEnded) and ended.notice.rank == 0


def test_when_they_did_not_come_in_time_all_are_told_who(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "JOIN_TIMEOUT", timedelta(seconds=1))
    launch = Launch(3, monkeypatch)
    launch.start(1)
    while 1 not in ready_processes(launch.server):
        time.sleep(0.01)
    monkeypatch.setattr(meeting, "JOIN_TIMEOUT", SOON)
    launch.start(0)
    ended = launch.wait()
    assert isinstance(ended[1], NotComeError) and isinstance(ended[0], OtherEnded)
    assert f"ready: host {host_name()} (ranks 0, 1); missing: rank 2" in str(ended[1])
    assert str(ended[0]) == str(ended[1])


def test_who_is_ready_is_known_without_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "JOIN_TIMEOUT", timedelta(seconds=3))
    launch = Launch(3, monkeypatch)
    launch.start(1)
    while not (ready := ready_processes(launch.server)):
        time.sleep(0.01)
    assert ready == {1: host_name()}
    launch.wait()


def test_two_processes_of_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The later one may be the earlier one, killed and started again: it takes its place."""
    launch = Launch(3, monkeypatch)
    port, errors = launch.server.port, list[Exception]()

    def join(rank: int) -> None:
        try:
            agree_on_start(TCPStore("127.0.0.1", port, timeout=SOON), ProcessRank(rank, 3), SOON)
        except SettingsError as error:
            errors.append(error)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in (1, 1, 0)]
    for thread in threads:
        thread.start()
    while launch.server.add("join_requests", 0) < 2:
        time.sleep(0.01)
    time.sleep(0.5)  # both have taken the rank
    threads.append(threading.Thread(target=join, args=(2,)))
    threads[-1].start()
    for thread in threads:
        thread.join(60)
    assert [str(error) for error in errors] == [
        "another process has rank 1 too: give each process a RANK of its own"
    ]


def test_other_numbers_of_processes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=SOON)
    server.add("join_requests", 1)
    server.set("join_request/1", '{"token": "t", "rank": 1, "of": 3, "host": "node-b"}')
    said = r"rank 1 \(host node-b\) was started as one of 3 processes, rank 0 \(host .+\) as one of 2"
    with pytest.raises(SettingsError, match=said):
        agree_on_start(server, ProcessRank(0, 2), SOON)


def test_sixty_four_join_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_LOOK_SECONDS", 0.25)
    launch = Launch(64, monkeypatch)
    for rank in reversed(range(64)):
        launch.start(rank)
    assert launch.wait() == dict.fromkeys(range(64))


@pytest.mark.parametrize(
    ("rank", "error", "kind", "words"),
    [
        (
            0,
            RuntimeError("The server socket has failed to listen: EADDRINUSE"),
            SettingsError,
            "another program",
        ),
        (0, RuntimeError("failed to bind: EACCES, permission denied"), SettingsError, "a port above 1023"),
        (1, ConnectionRefusedError(111, "Connection refused"), MdlError, "nothing answers at a:29500"),
        (1, TimeoutError("timed out"), MdlError, "no firewall closes the port"),
        (1, OSError(113, "No route to host"), MdlError, "nothing answers"),
        (
            1,
            RuntimeError("Failed to recv, got 0 bytes. Connection was likely closed"),
            PeerLostError,
            "has ended",
        ),
        (2, RuntimeError("recvVector failed: Connection reset by peer"), PeerLostError, "is gone"),
        (1, RuntimeError("sendBytes failed on SocketImpl(fd=3): Broken pipe"), PeerLostError, "is gone"),
        (1, ValueError("magic number mismatch"), MdlError, "the same version of torch"),
    ],
)
def test_why_a_process_could_not_join(
    rank: int, error: Exception, kind: type[MdlError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", "29500")
    found = why_not_joined(error, ProcessRank(rank, 4), "a:29500")
    assert type(found) is kind and words in str(found) and "\n" not in str(found)
    if kind is not SettingsError:
        assert str(found).startswith(f"rank {rank} (host {host_name()}): could not join")
