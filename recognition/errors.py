"""The errors a user can mend: each message names place, what was found, what was expected, and what to do."""

from __future__ import annotations


class ArcShardError(Exception):
    """Base of every error that ends a command with one line and exit status 1."""


class ConfigError(ArcShardError):
    """A config file, an override or a flag asks for something that cannot be."""


class DataError(ArcShardError):
    """A data file or an image is missing, damaged or contradicts its neighbours."""


class CheckpointError(ArcShardError):
    """A checkpoint or a weight file is missing, damaged or does not fit the model."""
