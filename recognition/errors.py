"""The errors a user can mend: each message names place, what was found, what was expected, and what to do."""

from __future__ import annotations

_LONGEST = 1000  # characters of a message; what is cut out of its middle is a name or a value from a file


class ArcShardError(Exception):
    """Base of every error that ends a command with one line and exit status 1.

    Messages quote files that may come from anywhere: as text, control characters are spelled out and the middle of what
    is too long is left out, so that no file writes to the terminal.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST * 2 // 3]} ... {text[-_LONGEST // 3 :]}"
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class ConfigError(ArcShardError):
    """A config file, an override or a flag asks for something that cannot be."""


class DataError(ArcShardError):
    """A data file or an image is missing, damaged or contradicts its neighbors."""


class CheckpointError(ArcShardError):
    """A checkpoint or a weight file is missing, damaged or does not fit the model."""
