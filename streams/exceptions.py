"""What the user can get wrong in this room: the brokers, a file, or the command itself."""

from __future__ import annotations

from earlybell.errors import UserError


class BrokerError(UserError):
    """No broker answers, or it refuses the request. The text names the address and says what to do."""


class TopicError(UserError):
    """A topic that the pipeline must not use as it is. The text has the command that corrects it."""


class FileError(UserError):
    """A file that cannot be read as news. The text says what to do."""


class CommandError(UserError):
    """A command that cannot do what was asked. The text says what to do."""
