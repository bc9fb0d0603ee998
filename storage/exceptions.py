"""What can go wrong with the database, told apart by what a caller should do about it."""

from __future__ import annotations

from earlybell.errors import UserError


class StorageError(UserError):
    """Something about the database that no retry cures. Its text is one line and never holds a password."""


class StorageUnavailable(StorageError):
    """The database cannot be reached or broke off the work, and nothing of it was written: repeat the call later."""


class SchemaMismatch(StorageError):
    """The database's schema is not the one that this version of the code reads and writes."""
