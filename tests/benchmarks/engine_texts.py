"""The texts that engines are measured on: labelled texts, real headlines and long articles, or the sample feed."""

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
class Corpus:
    """Texts from one source, with their labels if there are any."""

    texts: list[str]
    labels: list[str] | None = None


def collect() -> dict[str, Corpus]:
    """Return the corpora by name, the labelled one first.

    Without ``../shared/data`` (or ``EARLYBELL_DATA``) that is only the sample feed, which has no labels.
    """
    try:
        data = data_directory()
    except DataError:
        return {"sample_feed": Corpus(_sample_feed())}
    labelled = [json.loads(line) for line in (data / "sentiment" / "tfns_validation.jsonl").open(encoding="utf-8")]
    headlines = [json.loads(line) for line in (data / "replay" / "headlines_2026.jsonl").open(encoding="utf-8")]
    with lzma.open(data / "long" / "articles.jsonl.xz", "rt", encoding="utf-8") as lines:
        articles = [json.loads(line) for line in lines]
    generator = random.Random(1)
    key = next(name for name in ("headline", "title", "text") if name in headlines[0])
    sampled_headlines, sampled_articles = generator.sample(headlines, HEADLINES), generator.sample(articles, ARTICLES)
    return {
        "tfns": Corpus([normalise(row["text"]) for row in labelled], [row["label"] for row in labelled]),
        "headlines": Corpus([normalise(row[key]) for row in sampled_headlines]),
        "articles": Corpus([normalise(f"{row['title']}. {row['body']}") for row in sampled_articles]),
    }


def _sample_feed() -> list[str]:
    from pathlib import Path

    headlines = []
    for line in (Path(str(sample)).parent / "feed.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            headlines.append(str(json.loads(line)["headline"]))
        except (ValueError, KeyError, TypeError):
            continue  # the feed contains broken messages on purpose
    return [normalise(headline) for headline in headlines] * max(1, 2_000 // max(1, len(headlines)))
