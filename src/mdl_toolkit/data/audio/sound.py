"""A sound file that is read from front to back. Importing this module imports soundfile."""

from __future__ import annotations

import soundfile


class Sound(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file of soundfile's that doesn't seek between two reads.

    soundfile seeks after each block that it has read, to where it is anyway, in files that it can seek in.
    That is not the same as reading on: it makes an MP3 decoder forget the bytes that the next frames need
    (its bit reservoir), and fails in a FLAC file of unknown length.
    """

    def seekable(self) -> bool:
        """Always False, so that soundfile's own reading doesn't seek."""
        return False

    def can_seek(self) -> bool:
        """Whether :meth:`seek` works; some encodings can only be read from front to back."""
        return bool(super().seekable())
