"""The one exception that ends a command with a sentence instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something that the person at the keyboard can mend.

    The message is one sentence that names the file, the value and the way out; the command
    prints it as ``error: ...`` and ends with exit code 2.
    """


class DataError(UserError):
    """A data set that cannot be used as it is."""


class ConfigError(UserError):
    """A configuration that cannot be used as it is."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used here."""
