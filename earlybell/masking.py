"""The one mask for secrets in anything that people read: logs, messages, listings.

Two nets: what looks like a credential (the password in a URL, ``password=...``), and the very secrets that the settings
hold (`remember`), in whatever form a library quotes them. This module imports nothing of Earlybell.
"""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus

MASK = "***"
#: Shorter secrets are masked only where they look like one: replacing every "a" would make a log unreadable.
SHORTEST_REMEMBERED = 4

_NAMES = r"(?:password|passwd|passphrase|secret|api_?key|access_?token)"
#: Fields and parameters with such a name hold a secret.
_SECRET_NAME = re.compile(rf"{_NAMES}|credential|^token$|authorization", re.IGNORECASE)
# A password may have any character in it, "@" and "/" included: it reaches to the last "@" of the word.
_URL_PASSWORD = re.compile(r'(?<=://)([^\s:/?#@"]*):[^\s"]*@')
_ASSIGNMENT = re.compile(rf"(\w*{_NAMES}\w*\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&\"']+)", re.IGNORECASE)

_remembered: set[str] = set()


def remember(secret: str | None) -> None:
    """Mask this secret from now on, wherever it stands as a word."""
    if secret is not None and len(secret) >= SHORTEST_REMEMBERED:
        # As it is, as it stands in a URL, and as repr and JSON write it.
        _remembered.update({secret, quote(secret, safe=""), quote(secret), quote_plus(secret)})
        _remembered.update({repr(secret)[1:-1], secret.replace("\\", "\\\\").replace('"', '\\"')})


def names_secret(name: str) -> bool:
    """Return whether a field or parameter of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def masked(text: str) -> str:
    """Return the text with its secrets masked."""
    for secret in sorted(_remembered, key=len, reverse=True):
        if secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    return _ASSIGNMENT.sub(rf"\1{MASK}", text)
