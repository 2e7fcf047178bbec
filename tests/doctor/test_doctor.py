"""``doctor`` on one machine: each thing that can be wrong with it, and what is to be done."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from mdl_toolkit import cli
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.doctor import launched, machine, software
from mdl_toolkit.doctor.findings import OK, PROBLEM, WARNING, Finding, looked_at

FOUR = Launch(0, 4, 0, 4)


def _levels(found: Iterator[Finding]) -> list[str]:
    return [finding.level for finding in found]


def test_a_sound_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert cli.run(["doctor", "--json", "--output", str(tmp_path / "new" / "run")]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed)
    assert found["ok"] is True and found["problems"] == 0 and "hf_secret" not in printed
    topics = {finding["topic"] for finding in found["findings"]}
    assert {"versions", "device", "cores", "memory", "open files", "output", "hub", "own name"} <= topics
    assert not list(tmp_path.iterdir()), "nothing is left where it looked"


def test_a_problem_is_a_line_with_its_remedy_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").touch()
    assert cli.run(["doctor", "--output", str(tmp_path / "file" / "run")]) == 1
    told = capsys.readouterr()
    assert f"problem  output: {tmp_path / 'file'} is a file; name a folder\n" in told.out
    assert told.err.endswith(f"error: a problem: output: {tmp_path / 'file'} is a file\n")


@pytest.mark.parametrize("wrong", [["--wait", "0"], ["--what"], ["folder"]])
def test_wrong_use(wrong: list[str]):
    assert cli.run(["doctor", *wrong]) == 2


def test_a_torch_that_can_t_be_loaded_is_a_finding(tmp_path: Path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x"}
    words = [sys.executable, "-m", "mdl_toolkit", "doctor", "--json"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    texts = [finding["text"] for finding in json.loads(done.stdout)["findings"]]
    assert any("libcudart.so.13" in text for text in texts)


@pytest.mark.parametrize("rank", [0, 1])
def test_hosts_without_an_address_to_meet_at(rank: int, tmp_path: Path):
    ranks = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    env = {name: value for name, value in os.environ.items() if name != "MASTER_ADDR"} | ranks
    words = [sys.executable, "-m", "mdl_toolkit", "doctor"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, cwd=tmp_path)
    told = done.stdout if rank == 0 else done.stderr
    assert done.returncode == 1 and "problem  rendezvous: " in told and "MASTER_ADDR is not set" in told


def test_what_fails_or_hangs_while_looked_at_is_a_finding():
    def fails() -> Iterator[Finding]:
        yield Finding(OK, "", "the first half")
        raise ValueError("a line\nand another")

    def hangs() -> Iterator[Finding]:
        time.sleep(60)
        yield Finding(OK, "", "too late")

    first, second = looked_at("disk", fails, "node")
    assert (first.topic, first.host) == ("disk", "node")
    assert second.level == PROBLEM and second.text == "could not be checked: a line and another"
    (third,) = looked_at("drive", hangs, "node", seconds=0.1)
    assert third.level == PROBLEM and "no answer" in third.text


def test_a_library_that_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch):
    asked = ["numpy>=99.1", "no-such-library>=1", "torch>=2.10", 'pytest>=99; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda _: asked)
    _, problem = software.packages()
    assert problem.level == PROBLEM and "numpy" in problem.text and "no-such-library isn't" in problem.text
    assert "torch" not in problem.text and "pytest" not in problem.text


@pytest.mark.parametrize(
    ("threads", "on_cpu", "level"),
    [("8", True, WARNING), ("1", True, WARNING), ("2", True, OK), ("8", False, OK), ("", True, OK)],
)
def test_threads_of_all_processes(threads: str, on_cpu: bool, level: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    *_, last = machine.cores(FOUR, on_cpu)
    assert last.level == level
    assert level == OK or last.remedy == "OMP_NUM_THREADS=2"


def test_little_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1 << 30, "total": 8 << 30})
    )
    assert _levels(machine.memory()) == [WARNING]


def test_shared_memory_counts_between_gpus_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "free_bytes", lambda _: 64 << 20)
    assert _levels(machine.shared_memory(0)) == _levels(machine.shared_memory(1)) == [OK]
    (finding,) = machine.shared_memory(8)
    assert finding.level == PROBLEM and "--shm-size" in finding.remedy


def test_too_few_open_files(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert _levels(machine.open_files(FOUR)) == [OK]
    (finding,) = machine.open_files(Launch(0, 800, 0, 8))
    assert finding.level == PROBLEM and finding.remedy == "ulimit -n 4096"


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert next(machine.disk(tmp_path, "output")).level in (OK, WARNING)
    monkeypatch.setattr(machine, "_safe_write", lambda _: 10.0)
    (slow,) = machine.disk(tmp_path, "output")
    assert slow.level == WARNING and "slow" in slow.text
    assert _levels(machine.disk(tmp_path, "temporary files", measured=False)) == [OK]

    def full(_: Path) -> float:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine, "_safe_write", full)
    (problem,) = machine.disk(tmp_path, "output")
    assert problem.level == PROBLEM and "No space left on device" in problem.text


def test_the_hub_is_left_alone_unless_asked(monkeypatch: pytest.MonkeyPatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to leave the machine")

    monkeypatch.setattr(urllib.request, "urlopen", never)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline" in next(machine.hub(online=True)).text
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    assert "not tried" in next(machine.hub(online=False)).text


def test_a_hub_that_can_t_be_reached(monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://user:password@127.0.0.1:9")
    finding = next(machine.hub(online=True))
    assert finding.level == WARNING and "127.0.0.1:9 can't be reached" in finding.text
    assert "password" not in finding.text


@pytest.mark.parametrize(
    ("means", "launch", "level"),
    [
        (["10.0.0.1"], Launch(0, 2, 0, 1), OK),
        (["127.0.1.1"], Launch(0, 2, 0, 1), WARNING),
        (["127.0.1.1"], Launch(), OK),
        (None, Launch(), WARNING),
    ],
)
def test_the_own_name(means: list[str] | None, launch: Launch, level: str, monkeypatch: pytest.MonkeyPatch):
    def resolved(_: str) -> list[str]:
        if means is None:
            raise OSError(-2, "Name or service not known")
        return means

    monkeypatch.setattr(launched, "resolved", resolved)
    monkeypatch.setattr(launched, "interface_addresses", lambda: {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"]})
    (finding,) = launched.own_name(launch)
    assert finding.level == level
    if level == WARNING:
        assert "/etc/hosts: 10.0.0.1 " in finding.remedy
        assert ("is_host=1" in finding.remedy) == (means is not None)


@pytest.mark.parametrize(("asked", "level"), [("eth", OK), ("=eth0", OK), ("^lo", OK), ("ib", PROBLEM)])
def test_networks_that_nccl_is_told_to_use(asked: str, level: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launched, "interface_addresses", lambda: {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"]})
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", asked)
    assert _levels(launched.interfaces())[-1] == level
