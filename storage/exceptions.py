"""The errors of the database, distinguished by what a caller should do about them."""

from __future__ import annotations

from earlybell.errors import UserError


class StorageError(UserError):
    """An error that no retry will fix. Its text is one line and never contains a password."""


class StorageUnavailable(StorageError):
    """The database cannot be reached, or the connection was lost, and nothing was written. Retry later."""


class SchemaMismatch(StorageError):
    """The database's schema is not the one of this version of the code."""
