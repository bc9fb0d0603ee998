"""Real headlines whose labels a reader gave, with the suite's guide at hand (``tests/behaviour/GUIDE.md``).

Rules find what they know already, and constructed headlines have their writers' wording. These are of the unlabelled
headlines, half of them chosen where a model was unsure or had changed its mind. They are not ours to distribute:
``by_reading.txt`` has a line for each, ten hex digits of its SHA-256 and its sign.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from earlybell.inference.training.data import LABELS, Example, is_held_out, read_unlabelled

SOURCE = "by_reading"
FILE = Path(__file__).with_name("by_reading.txt")
_SIGNS = {"+": 1, "0": 0, "-": -1}
_DIGITS = 10


def digest(headline: str) -> str:
    """Return the digits by which a headline is found."""
    return hashlib.sha256(headline.encode()).hexdigest()[:_DIGITS]


@cache
def signs(file: Path = FILE) -> Mapping[str, int]:
    """Return the sign (+1, 0, -1) of each headline that was read, by its digest."""
    return {line[:_DIGITS]: _SIGNS[line[_DIGITS:]] for line in file.read_text().splitlines()}


def labelled_by_reading(
    unlabelled: Path,
    count: int,
    seed: int,
    exclude: Iterable[Example] = (),
    *,
    kept_aside: bool = False,
    file: Path = FILE,
) -> list[Example]:
    """Sample up to ``count`` of the headlines that were read.

    Parameters
    ----------
    unlabelled
        The headlines, one per line.
    exclude
        Texts that are left out.
    kept_aside
        Return the tenth part, by a hash of the text, that is never trained on.

    Raises
    ------
    DataError
        There are no headlines at ``unlabelled``.
    """
    known = signs(file)
    found: list[Example] = []
    for headline in read_unlabelled(unlabelled, 10**9, seed, exclude):
        if len(found) == count:
            break
        sign = known.get(digest(headline))
        if sign is not None and is_held_out(headline, SOURCE) == kept_aside:
            found.append(Example(headline, LABELS[sign + 1], SOURCE))
    return found
