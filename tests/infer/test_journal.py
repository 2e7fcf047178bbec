"""An inference that was interrupted goes on with what is done, unless it would be another work."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

import pytest

from mdl_toolkit.errors import MdlError, UserError
from mdl_toolkit.infer.journal.journal import Journal
from support.inference import make_table, predict, watch_rows
from support.models.tiny import make_model_folder


def test_an_interrupted_run_goes_on_and_ends_alike(
    folder: Path, model: Path, monkeypatch, interrupted_after, capsys
):
    make_table(folder, 30)
    (folder / "clips/5.wav").unlink()
    predict(folder, model, output=folder / "whole.csv", batch_size=1)
    capsys.readouterr()
    with interrupted_after(19):
        predict(folder, model, batch_size=1)
    assert not (folder / "out.csv").exists()
    journal = folder / "out.csv.partial/rank-0.jsonl"
    with open(journal, "ab") as stream:  # what a kill leaves in the middle of a line
        stream.write(b'0badc0de {"window":3,"rows":[[1,"wro')
    asked = []
    watch_rows(monkeypatch, lambda prompt: asked.append(prompt.key))
    predict(folder, model, batch_size=1)
    assert sorted(asked) == list(range(16, 30)), "two windows of eight rows were done"
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert "resuming" in capsys.readouterr().err


def test_another_command_is_refused_by_name(folder: Path, model: Path, interrupted_after):
    make_table(folder)
    with interrupted_after(1):
        predict(folder, model)
    with pytest.raises(UserError, match=r"--max-new-tokens was 4, now 6.*--overwrite"):
        predict(folder, model, max_new_tokens=6)
    with pytest.raises(UserError, match=r"repetition_penalty was None, now 1\.5"):
        predict(folder, model, repetition_penalty=1.5)
    with pytest.raises(UserError, match="another model"):
        predict(folder, make_model_folder(folder / "other", seed=4))
    (folder / "in.csv").write_text((folder / "in.csv").read_text().replace("id-9", "id-8"))
    with pytest.raises(UserError, match="another input"):
        predict(folder, model)
    rows = predict(folder, model, max_new_tokens=6, overwrite=True)
    assert len(rows) == 10 and not (folder / "out.csv.partial").exists()


def test_a_journal_that_is_damaged_is_not_trusted(folder: Path, model: Path, interrupted_after):
    make_table(folder)
    predict(folder, model, output=folder / "whole.csv", batch_size=1)
    with interrupted_after(9):
        predict(folder, model, batch_size=1)
    journal = folder / "out.csv.partial/rank-0.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"rows"' in lines[3]
    lines[3] = lines[3].replace(b"[[", b"[[1")
    journal.write_bytes(b"".join(lines))
    predict(folder, model, batch_size=1)
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


def test_two_at_once_are_refused(folder: Path, model: Path, interrupted_after):
    make_table(folder)
    with interrupted_after(1):
        predict(folder, model)
    other = Journal(folder / "out.csv")
    other.open()
    try:
        for options in ({}, {"max_new_tokens": 9, "overwrite": True}):
            with pytest.raises(UserError, match="another inference is writing it"):
                predict(folder, model, **options)
    finally:
        other.close()
    predict(folder, model)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EACCES, errno.ESTALE])
def test_a_journal_that_can_t_be_locked_is_written_all_the_same(tmp_path: Path, monkeypatch, number: int):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    journal = Journal(tmp_path / "out.csv")
    journal.folder.mkdir()
    journal.open()
    journal.close()
    assert (journal.folder / "rank-0.jsonl").exists()


class _FullDisk:
    """A journal's file on a disk with room for so many bytes more; it fails once more when it is closed."""

    def __init__(self, stream: IO[bytes], room: int) -> None:
        self._stream, self._room = stream, room

    def write(self, data: memoryview) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = self._stream.write(data[: self._room])
        self._room -= count
        return count

    def truncate(self, size: int) -> None:
        self._stream.truncate(size)

    def close(self) -> None:
        self._stream.close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_keeps_what_is_done_and_says_so(folder: Path, model: Path, monkeypatch):
    """The file's second error, when it is closed, doesn't hide the first, which says what to do."""
    make_table(folder)
    predict(folder, model, output=folder / "whole.csv", batch_size=1)
    opened = Journal.open

    def on_a_full_disk(self: Journal) -> None:
        opened(self)
        self._stream = _FullDisk(self._stream, room=700)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "open", on_a_full_disk)
        with pytest.raises(MdlError, match=r"No space left on device; what was done .* is kept: make room"):
            predict(folder, model, batch_size=1)
    journal = folder / "out.csv.partial/rank-0.jsonl"
    assert journal.stat().st_size == 700 and not journal.read_bytes().endswith(b"\n"), "a line is cut short"
    predict(folder, model, batch_size=1)
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
