"""The sample feed: one trading day of news about companies that do not exist, written for this project.

``feed.jsonl`` is replayed line by line, as it is (``earlybell replay --raw``): it has broken messages in it, and an
empty line is a message without a value. Each story says in a field of its own, ``intended``, what its writer meant;
the pipeline ignores unknown fields. What must come of the feed is stated here, and tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

#: The feed itself.
FEED = Path(__file__).parent / "feed.jsonl"

#: Lines, and so messages.
MESSAGES = 355
#: Stories that the model can score; CORRECTIONS of them came out again with a higher revision, and DUPLICATES of the
#: messages are word for word what was sent before.
STORIES, CORRECTIONS, DUPLICATES = 319, 12, 10
#: Line → what its dead letter says. All but the one in a foreign language are against the contract.
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
#: Of a language that the model does not read: news, though without a signal.
FOREIGN = 1

#: Distinct (id, revision) with a signal, and in the table of news.
SIGNALS = STORIES + CORRECTIONS
NEWS = SIGNALS + FOREIGN
