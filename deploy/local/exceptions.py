"""What can go wrong with the local stack."""

from __future__ import annotations

from earlybell.errors import UserError


class StackError(UserError):
    """The local stack cannot do what was asked. Its text is one line that says what to do about it."""
