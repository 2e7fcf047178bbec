"""The decoding library's side of an open file. Importing this imports soundfile."""

from __future__ import annotations

import soundfile


class Sound(soundfile.SoundFile):  # type: ignore[misc]
    """A file to be read on and on.

    soundfile seeks after each block that it has read, to where it is anyway, in files that it can seek in.
    That is not the same as reading on: it makes an MP3 decoder forget the bytes that the next frames need
    (its bit reservoir), and fails in a FLAC file of unknown length.
    """

    def seekable(self) -> bool:
        """Not, as far as soundfile's own reading is concerned."""
        return False

    def can_seek(self) -> bool:
        """Whether :meth:`seek` works; some encodings can only be read on."""
        return bool(super().seekable())
