"""The columns of a table: what each holds, and what is meant where one has another name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from mdl_toolkit.data.input.kinds import RECORDING_ENDINGS

TEXT_FIELDS = ("audio", "prediction", "system_prompt", "user_prompt")
TIME_FIELDS = ("start", "end")
FIELDS = (*TEXT_FIELDS, *TIME_FIELDS)

#: What other tools and people call the two columns that matter, the likeliest first.
_OTHER_NAMES = {
    "audio": (
        "audio_path", "audio_filepath", "audio_file", "audio_filename", "audios", "path", "filepath",
        "file_path", "file", "filename", "file_name", "wav", "wav_path", "wav_file", "wave", "clip",
        "recording", "sound", "url", "source", "input",
    ),
    "prediction": (
        "predictions", "answer", "label", "labels", "text", "transcript", "transcription", "sentence",
        "caption", "target", "output", "response", "reference", "completion", "translation", "class",
        "category", "emotion",
    ),
}  # fmt: skip
#: Where tools for chat models keep a row's turns.
_CHAT = ("messages", "conversations", "conversation", "chat", "dialogue")


def no_column(name: str, columns: Sequence[str]) -> str:
    """A message's part about a column that isn't there: what is there, and what to rename."""
    chat = [column for column in columns if column.lower() in _CHAT]
    if chat and "prediction" not in columns and _near("prediction", columns) is None:
        return (
            f"rows of chat turns ({chat[0]!r}), which are not read: write each clip as one row with the "
            "columns audio and prediction, and user_prompt for the question"
        )
    wanted = [field for field in ("audio", "prediction") if field not in columns]
    renames = [f"{near!r} to {field}" for field in wanted if (near := _near(field, columns)) is not None]
    listed = ", ".join(repr(column[:40]) for column in columns[:12]) or "none"
    more = f" and {len(columns) - 12} more" if len(columns) > 12 else ""
    hint = f"; rename {' and '.join(renames)}" if _near(name, columns) else ""
    return f"no column {name!r}; its columns are {listed}{more}{hint}"


def without_header(columns: Sequence[str]) -> str | None:
    """The cell by which a CSV's first line is data; ``None`` where it may be a header."""
    url = re.compile(r"(https?|file)://\S", re.IGNORECASE)
    return next((c for c in columns if c.lower().endswith(RECORDING_ENDINGS) or url.match(c)), None)


def unread_columns(columns: Sequence[str]) -> list[str]:
    """Sentences on columns that are passed over though they look like one that is read."""
    found = []
    for field in FIELDS[1:]:
        near = [column for column in columns if _plain(column) == _plain(field)]
        if near and field not in columns:
            found.append(f"column {near[0]!r} is not read: rename it to {field} if it is meant as that")
    return found


def _near(field: str, columns: Sequence[str]) -> str | None:
    """The column that is most likely meant by a field."""
    plain = {_plain(column): column for column in reversed(columns) if column not in FIELDS}
    for name in (field, *_OTHER_NAMES.get(field, ())):
        if _plain(name) in plain:
            return plain[_plain(name)]
    close = difflib.get_close_matches(_plain(field), plain, n=1, cutoff=0.75)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    """A name without its case, blanks and marks between words."""
    return re.sub(r"[\W_]+", "", name).lower()
