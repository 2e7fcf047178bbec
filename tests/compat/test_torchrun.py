"""What the processes of a launch know of it: its key-value store, its agent, and its attempts."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdl_toolkit.compat.torchrun import agent_id, agent_serves_store, job_id, reports_of_failed_attempt

SCRIPT = """
import os
from mdl_toolkit.compat.torchrun import agent_serves_store
told = os.environ.pop("TORCHELASTIC_USE_AGENT_STORE")
found = agent_serves_store()
agent_serves_store.cache_clear()
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = told
print(told, agent_serves_store(), found)
"""


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    agent_serves_store.cache_clear()
    yield
    agent_serves_store.cache_clear()


@pytest.mark.system
def test_torchruns_agent_says_so_and_is_found_where_it_does_not(tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    done = subprocess.run([*command, str(tmp_path / "say.py")], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


@pytest.mark.parametrize(("told", "served"), [("True", True), ("False", False)])
def test_what_it_says_counts(told: str, served: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", told)
    assert agent_serves_store() == served


@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize("by_torchrun", [True, False])
def test_else_something_listens_already(
    listens: bool, by_torchrun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if by_torchrun:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        if not listens:
            server.close()
        assert agent_serves_store() == (listens and by_torchrun)


def test_alone_there_is_no_agent() -> None:
    assert not agent_serves_store()


ATTEMPTS = """
import os
from mdl_toolkit.compat.torchrun import agent_id, job_id, reports_of_failed_attempt
from mdl_toolkit.terminal.torchrun import report_failure
count = os.environ["TORCHELASTIC_RESTART_COUNT"]
print(count, agent_id(), job_id(), *(path.read_text() for path in reports_of_failed_attempt()), sep="|")
report_failure(f"attempt {count}")
raise SystemExit(1)
"""


@pytest.mark.system
def test_attempts_have_their_agent_in_common_and_launches_have_not(tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text(ATTEMPTS)
    command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-id", "job"]
    command += ["--rdzv-endpoint", "localhost:0", "--nproc-per-node", "1", "--max-restarts", "1"]
    agents = []
    for _ in range(2):
        done = subprocess.run(
            [*command, str(tmp_path / "say.py")], capture_output=True, text=True, timeout=300
        )
        first, second = (line.split("|") for line in done.stdout.splitlines())
        assert first[0] == "0" and first[2:] == ["job"], done.stdout
        assert second[:3] == ["1", *first[1:]] and '"attempt 0"' in second[3], done.stdout
        agents.append(first[1])
    assert agents[0].startswith(f"{socket.gethostname()}:/") and agents[0] != agents[1]


@pytest.mark.parametrize("file", [None, "", "/mine.json", "/run/attempt_x/0/error.json", "error.json"])
def test_an_agent_that_keeps_no_files_is_not_known(file: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    if file is not None:
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", file)
    assert (agent_id(), job_id(), reports_of_failed_attempt()) == (None, None, [])
