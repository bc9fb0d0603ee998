"""The formats of the files that commands read. Apart from those that read them, so that the CLI starts quickly."""

from __future__ import annotations

from typing import Literal

#: A file of news for `earlybell replay`.
NewsFormat = Literal["jsonl", "csv", "tsv"]
#: The input of `earlybell score`; ``auto`` decides by the first line.
TextFormat = Literal["auto", "text", "jsonl"]
#: The output of `earlybell score`.
ScoreFormat = Literal["table", "json", "csv"]
