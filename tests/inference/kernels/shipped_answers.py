"""What the shipped model answers to a fixed set of texts, as digests that are the same on every processor.

``python -m tests.inference.kernels.shipped_answers`` writes `shipped_answers.json` anew, for another model, another
arithmetic (then `predictions.INT8_ARITHMETIC` has another number too) or other rules for figures (`figures.RULES`);
with a number it prints the answers to that many chunks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path

from earlybell.inference.engine import open_engine
from earlybell.inference.predictions import Predictions
from earlybell.streams.demo.sample import FEED
from earlybell.streams.records import BadNews, decode_news

FILE = Path(__file__).with_suffix(".json")
#: Full depth, the default, and the fastest, which may prune tokens.
DIALS = (0.0, 0.5, 1.0)
#: Texts of a digest: where two forms differ, the digest says roughly at which text.
CHUNK = 16
HARD = (
    "", " ", "a", ".", "?!" * 60, "0", "12.5%", "$" * 40, "Z" * 99, "z" * 101, "x " * 400, "Profit warning. " * 200,
    "Ergebnis über den Erwartungen – Aktie steigt", "利益が予想を上回る", "الأرباح ترتفع", "Акции падают", "é" * 50,
    "e\u0301" * 50, "\u200b\u200d\ufeff", "🚀🚀 to the moon 🚀", "tab\tand\nnewline\r\n", "nul\x00byte", "\x7f\x80\x9f",
    "[SEP] [CLS] [MASK]", "<unk> ## ##s", "\ud800 lone surrogate", "I" * 5 + "ı" * 5 + "İ" * 5, "ß ﬁ ½ ² №",
    "Shares of " + ", ".join(f"company {n}" for n in range(60)), "not " * 30 + "bad", "'" * 30, "Q3's $1.2bn; up 3%…",
)  # fmt: skip


def texts() -> list[str]:
    """Return the texts of the sample feed, then hard cases."""
    feed = []
    for line in FEED.read_bytes().splitlines():
        with contextlib.suppress(BadNews):  # the feed has broken messages too
            feed.append(decode_news(line).text)
    return [*feed, *HARD]


def answers(chunks: int | None = None) -> dict[str, list[str]]:
    """Return a digest of the answers to each chunk of texts (at most so many chunks), by dial."""
    known = texts()[: None if chunks is None else chunks * CHUNK]
    digests = {}
    for dial in DIALS:
        engine = open_engine("cpu", dial=dial, precision="int8")
        digests[f"{dial:.2f}"] = [
            _digest(engine.score(known[start : start + CHUNK])) for start in range(0, len(known), CHUNK)
        ]
    return digests


def _digest(predictions: Predictions) -> str:
    digest = hashlib.sha256()
    for values in (predictions.probabilities, predictions.exit_depth, predictions.tokens, predictions.tokens_kept):
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]


def record() -> dict[str, object]:
    """Return what `FILE` should hold."""
    description = open_engine("cpu", precision="int8").description
    return {"model": description.model_revision, "arithmetic": description.arithmetic, "answers": answers()}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(answers(int(sys.argv[1]))))
    else:
        FILE.write_text(json.dumps(record(), indent=1) + "\n")
