"""For all tests: one thread a process, here and in every process that a test starts, no network, all signals.

Results are compared to the last bit between processes, which holds for equal numbers of threads.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest

from mdl_toolkit.terminal.console import messages_on_console

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell's background job ignores Ctrl-C, one under nohup the hang-up, and so would all that it starts.
for _ignored, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_ignored) is signal.SIG_IGN:
        signal.signal(_ignored, _usual)
# What is kept in the user's cache is not found there by the next run of the tests.
_cache = tempfile.TemporaryDirectory(prefix="mdl-tests-")
os.environ["XDG_CACHE_HOME"] = _cache.name

if os.environ.get("MDL_TEST_REPEATABLE"):
    # A change is judged by the same inputs each time; runs by hand go on looking for new ones.
    from hypothesis import settings

    settings.register_profile("repeatable", derandomize=True)
    settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def messages_as_on_the_command_line() -> Iterator[None]:
    """What the package says is printed on standard error, as by its program, where tests read it."""
    with messages_on_console():
        yield


@pytest.fixture
def always_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small linear layers go to oneDNN too, as large ones do where it is the faster library."""
    from mdl_toolkit.compat.torch_cpu import has_onednn
    from mdl_toolkit.model.kernels import linear

    if not has_onednn():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: True)
    for name in ("_LEAST_WORK_IN_TRAINING", "_LEAST_WORK_IN_GENERATION"):
        monkeypatch.setattr(linear, name, 1)


@pytest.fixture
def process_of_four(request: pytest.FixtureRequest) -> Iterator[int]:
    """The rank of one process of four, the others imagined: collectives return at once."""
    from support.processes.fake_group import fake_group

    rank = getattr(request, "param", 0)
    with fake_group(rank, 4):
        yield rank
