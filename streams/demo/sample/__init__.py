"""The sample feed: one trading day of news about fictitious companies, written for this project.

``feed.jsonl`` is replayed line by line, unchanged (``earlybell replay --raw``): it contains broken messages, and an
empty line is a message without a value. The field ``intended`` of each story is the label that its writer intended; the
pipeline ignores unknown fields. The constants here state what the feed must produce, and are tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

#: The feed.
FEED = Path(__file__).parent / "feed.jsonl"

#: Lines of the feed: each is a message.
MESSAGES = 355
#: Stories that the model can score; how many of them come again with a higher revision; and how many messages repeat an
#: earlier one word for word.
STORIES, CORRECTIONS, DUPLICATES = 319, 12, 10
#: Line → part of the reason in its dead letter. All but the one in a foreign language violate the contract.
BROKEN: Mapping[int, str] = {
    13: "not JSON",
    39: "missing required field `headline`",
    64: "Expected `datetime` with a timezone component",
    92: "length >= 1 - at `$.headline`",
    124: "language 'de' is not supported",
    153: "Expected `array | null`, got `str` - at `$.symbols`",
    178: "surrogate",
    211: "not JSON",
    235: "tombstone",
    260: "Invalid RFC3339 encoded datetime",
    292: "not JSON",
    312: "length <= 4096 - at `$.headline`",
    331: "Expected `object`, got `array`",
    347: "headline is blank",
}
#: Stories in a language that the model does not read: they are stored as news, but have no signal.
FOREIGN = 1

#: Rows of signals and of news: one for each distinct (id, revision).
SIGNALS = STORIES + CORRECTIONS
NEWS = SIGNALS + FOREIGN
