"""The base class of the errors that the user can fix. Each room derives its own; this module imports nothing."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can fix. Its text is one line that says what to do.

    The command line prints that line and exits with code 2; any other exception is a bug and gets a traceback.
    """
