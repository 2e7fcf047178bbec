"""Start real launchers for tests: output kept, time bounded, and at the end only what was started is ended.

Launchers put their workers into sessions of their own, so a process group is not enough to find them again.
Every process started here carries a token in its environment, which its descendants inherit.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
_MARK = "MDL_TEST_LAUNCH"
# What an outer launcher, scheduler or configuration would tell a process; a test's launch starts without it.
_FOREIGN = re.compile(
    r"^(RANK|WORLD_SIZE|(LOCAL|MASTER|GROUP|ROLE|TORCHELASTIC|ACCELERATE|FSDP|SLURM|PMI|OMPI|MV2|MPI|HF)_\w+)$"
)


@dataclass
class Finished:
    """How a launch ended.

    Attributes:
        code: Exit code of the launcher, negative for the signal that ended it.
        output: What launcher and workers printed, standard output and error together, as on a terminal.
        seconds: From start to end.
    """

    code: int
    output: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """Lines that are not empty."""
        return [line for line in self.output.splitlines() if line.strip()]


class Launched:
    """A running launch. Made by :func:`launched`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, token: str, timeout: float) -> None:
        self.process, self._log, self._token = process, log, token
        self._start = time.monotonic()
        self._deadline = self._start + timeout

    @property
    def output(self) -> str:
        """What has been printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> dict[int, dict[str, str]]:
        """Environment of each living process of this launch, by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                raw = (entry / "environ").read_bytes()
                if f"{_MARK}={self._token}".encode() not in raw.split(b"\0"):
                    continue
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                    continue
            except OSError:
                continue
            pairs = (item.decode(errors="replace").partition("=") for item in raw.split(b"\0") if item)
            found[int(entry.name)] = {key: value for key, _, value in pairs}
        return found

    def rank(self, number: int) -> int | None:
        """Process id of a rank: the oldest of the processes that have this RANK, whose parent has not."""
        ours = {
            pid for pid, environment in self.processes().items() if environment.get("RANK") == str(number)
        }
        tops = [pid for pid in ours if _parent(pid) not in ours]
        return min(tops, default=None)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something to be so, as long as the launch lives and has time left."""
        while not condition():
            if self.process.poll() is not None and not condition():
                raise AssertionError(f"ended with {self.process.returncode} before {what}:\n{self.output}")
            if time.monotonic() > self._deadline:
                raise AssertionError(f"no time left while waiting for {what}:\n{self.output}")
            time.sleep(0.05)

    def signal(self, number: int, *, everyone: bool = False) -> None:
        """Send a signal to the launcher or, as some schedulers do, to every process of the launch."""
        for pid in self.processes() if everyone else [self.process.pid]:
            _kill(pid, number)

    def kill(self, rank: int) -> None:
        """Kill the process of a rank with -9."""
        pid = self.rank(rank)
        assert pid is not None, f"no rank {rank}:\n{self.output}"
        _kill(pid, signal.SIGKILL)

    def wait(self) -> Finished:
        """Wait for the launcher to end.

        Raises:
            AssertionError: It did not, within its time; everything has then been ended.
        """
        try:
            code = self.process.wait(max(0.1, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            shown = self.output
            self.end()
            raise AssertionError(f"did not end within its time:\n{shown}") from None
        return Finished(code, self.output, time.monotonic() - self._start)

    def end(self) -> None:
        """End whatever of this launch is still there."""
        for _ in range(20):
            left = self.processes()
            if not left:
                break
            for pid in left:
                _kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self.process.wait(10)


def environment(cwd: Path) -> dict[str, str]:
    """A user's environment: this Python's programs first on the path, nothing of a launcher or scheduler."""
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling everything anew takes each process longer to start
    return kept | {
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        # No one's own default configuration of accelerate may change what a test sees.
        "HF_HOME": str(cwd / ".huggingface"),
    }


@contextmanager
def launched(
    words: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    timeout: float = 240,
) -> Iterator[Launched]:
    """Start a command as a user's shell would, with the environment's programs first on the path.

    Args:
        words: The command line.
        cwd: Where it starts.
        env: Variables to add.
        prefix: Words before the command that put it somewhere (``support.processes.netns.Host.prefix``).
        timeout: Seconds after which waiting for it fails.
    """
    token = uuid.uuid4().hex
    given = {**environment(cwd), _MARK: token, **(env or {})}
    descriptor, name = tempfile.mkstemp(prefix="launch-", suffix=".log", dir=cwd)
    with open(descriptor, "wb") as log:
        process = subprocess.Popen(
            [*prefix, *map(str, words)],
            cwd=cwd,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    launch = Launched(process, Path(name), token, timeout)
    try:
        yield launch
    finally:
        launch.end()


def run(
    words: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    timeout: float = 240,
) -> Finished:
    """Start a command and wait for its end. Arguments as :func:`launched`."""
    with launched(words, cwd=cwd, env=env, prefix=prefix, timeout=timeout) as launch:
        return launch.wait()


def run_together(launches: Sequence[tuple[Sequence[str], Sequence[str]]], **kwargs: object) -> list[Finished]:
    """Start several commands, each as ``(prefix, words)``, and wait for all of them."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        started = [
            stack.enter_context(launched(words, prefix=prefix, **kwargs))  # type: ignore[arg-type]
            for prefix, words in launches
        ]
        return [launch.wait() for launch in started]


def torchrun(*options: str) -> list[str]:
    """Words that start a program in two processes on this machine."""
    return ["torchrun", "--standalone", "--nproc-per-node", "2", *options, "--no-python"]


def torchrun_on_both(job: str, *options: str) -> list[str]:
    """Words that, given on each of two hosts, start a program in one process on each."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "host-a", "--rdzv-id", job]
    return ["torchrun", "--nnodes", "2", "--nproc-per-node", "1", *meeting, *options, "--no-python"]


def free_port(low: int, high: int) -> int:
    """A TCP port from ``low`` up to ``high`` that nothing listens on at the moment.

    Below the range that the system hands out by itself, it stays free until it is used.
    """
    for port in random.Random().sample(range(low, high), 50):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port
    raise AssertionError(f"no free port from {low} to {high}")


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
