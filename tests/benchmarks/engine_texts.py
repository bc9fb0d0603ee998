"""The texts that engines are measured on: labelled ones, real headlines, long articles; else the sample feed."""

from __future__ import annotations

import json
import lzma
import random
from dataclasses import dataclass

from earlybell.inference.model.tokenizer import normalise
from earlybell.inference.training.data import DataError, data_directory
from earlybell.streams.demo.sample import __file__ as sample

ARTICLES, HEADLINES = 160, 4_000


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of one kind; labels where there are any."""

    texts: list[str]
    labels: list[str] | None = None


def collect() -> dict[str, Texts]:
    """By kind. Without ``../shared/data`` (or ``EARLYBELL_DATA``) only the sample feed, which has no labels."""
    try:
        data = data_directory()
    except DataError:
        return {"sample_feed": Texts(_sample_feed())}
    labelled = [json.loads(line) for line in (data / "sentiment" / "tfns_validation.jsonl").open(encoding="utf-8")]
    headlines = [json.loads(line) for line in (data / "replay" / "headlines_2026.jsonl").open(encoding="utf-8")]
    with lzma.open(data / "long" / "articles.jsonl.xz", "rt", encoding="utf-8") as lines:
        articles = [json.loads(line) for line in lines]
    drawn = random.Random(1)
    key = next(one for one in ("headline", "title", "text") if one in headlines[0])
    return {
        "tfns": Texts([normalise(one["text"]) for one in labelled], [one["label"] for one in labelled]),
        "headlines": Texts([normalise(one[key]) for one in drawn.sample(headlines, HEADLINES)]),
        "articles": Texts([normalise(f"{one['title']}. {one['body']}") for one in drawn.sample(articles, ARTICLES)]),
    }


def _sample_feed() -> list[str]:
    from pathlib import Path

    found = []
    for line in (Path(str(sample)).parent / "feed.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            found.append(str(json.loads(line)["headline"]))
        except (ValueError, KeyError, TypeError):
            continue  # the feed has broken messages in it, on purpose
    return [normalise(one) for one in found] * max(1, 2_000 // max(1, len(found)))
