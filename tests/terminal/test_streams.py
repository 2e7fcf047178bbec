"""Printing never ends anything: streams on descriptors that refuse, and characters that they don't have."""

from __future__ import annotations

import fcntl
import io
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mdl_toolkit.errors import MdlError
from mdl_toolkit.terminal import console, streams


def ignore(stream: streams.Descriptor, data: bytes) -> None:
    pass


@contextmanager
def broken(kind: str) -> Iterator[int]:
    """A descriptor that can't be written to."""
    if kind == "full disk":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    elif kind == "closed pipe":
        reading, descriptor = os.pipe()
        os.close(reading)
    else:  # a terminal whose other end is gone
        master, descriptor = os.openpty()
        os.close(master)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("kind", ["full disk", "closed pipe", "closed terminal"])
def test_writing_to_what_refuses_is_no_error(kind: str):
    with broken(kind) as descriptor:
        stream = io.TextIOWrapper(streams.Descriptor(descriptor, ignore), "utf-8", write_through=True)
        for _ in range(3):
            print("something", file=stream, flush=True)
        stream.close()


@pytest.mark.parametrize("kind", ["full disk", "closed pipe"])
def test_saying_something_is_no_error_without_a_guard_either(kind: str, monkeypatch: pytest.MonkeyPatch):
    with broken(kind) as descriptor, open(descriptor, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        console.print_line("something")
        monkeypatch.setattr(sys, "stderr", None)
        console.print_line("something")
        monkeypatch.undo()
        with pytest.raises(OSError):  # noqa: PT011 -- whatever the system says of this stream
            print("the stream does refuse", file=stream, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)  # so that it can be closed


@pytest.mark.parametrize("number", [3, 1024], ids=["a low number", "a number that select() doesn't take"])
def test_a_reader_made_non_blocking_by_others_gets_everything(number: int):
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most not in (-1, resource.RLIM_INFINITY) and most <= number:
        pytest.skip(f"this process may have {most} open files at most")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, number + 64), most))
    reading, low = os.pipe()
    writing = fcntl.fcntl(low, fcntl.F_DUPFD, number)
    os.close(low)
    os.set_blocking(writing, False)
    sent = b"x" * (1 << 20)
    got = bytearray()

    def read() -> None:
        time.sleep(0.2)  # the pipe is full by then
        while len(got) < len(sent):
            got.extend(os.read(reading, 1 << 16))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    streams.Descriptor(writing, ignore).write(sent)
    reader.join(30)
    assert got == sent
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("ascii", b"loading... -> \\u4e2d\\u6587 \xff.wav"),
        ("latin-1", b"loading... -> \\u4e2d\\u6587 \xff.wav"),
        ("utf-8", "loading… → 中文 ".encode() + b"\xff.wav"),
    ],
)
def test_what_a_terminal_does_not_have_is_written_otherwise(encoding: str, written: bytes):
    assert "loading… → 中文 \udcff.wav".encode(encoding, streams.PLAIN) == written


def test_a_result_that_can_t_be_written_is_an_error_but_a_reader_that_left_is_not(
    monkeypatch: pytest.MonkeyPatch,
):
    for kind in ("full disk", "closed pipe"):
        with broken(kind) as descriptor:
            monkeypatch.setattr(sys, "stdout", streams.unfailing(None, 1, ignore))
            monkeypatch.setattr(sys.stdout.buffer, "_number", descriptor)
            if kind == "full disk":
                with pytest.raises(MdlError, match="standard output can't be written: No space left"):
                    console.print_result("42")
                console.print_result("42", in_file=True)
            else:
                console.print_result("42")


def test_closed_descriptors_are_never_taken_by_a_file_of_ours(tmp_path: Path):
    """Else what is printed goes into whatever was opened next."""
    import subprocess

    program = (
        "from mdl_toolkit.terminal.console import guarded_streams, print_line\n"
        "import os, subprocess\n"
        "with guarded_streams():\n"
        "    with open('data', 'w') as stream:\n"
        "        print_line('hello'); print('hello'); os.write(2, b'hello')\n"
        "        stream.write('data')\n"
        "    subprocess.run(['sh', '-c', 'test -e /dev/fd/0 -a -e /dev/fd/1 -a -e /dev/fd/2'], check=True)\n"
    )
    words = ["sh", "-c", f'exec "{sys.executable}" -c "$0" <&- >&- 2>&-', program]
    assert subprocess.run(words, cwd=tmp_path).returncode == 0
    assert (tmp_path / "data").read_text() == "data"
