"""A replay that is long enough to interrupt, and settings for one test."""

from __future__ import annotations

import gc
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from earlybell.storage import migrations
from earlybell.streams.demo.sample import FEED
from earlybell.streams.records import BadNews, decode_news, encode
from earlybell.streams.settings import Settings
from tests.own_topics import own_topics

REAL = "replay/headlines_2026.jsonl"
#: Long enough to be interrupted. The end-to-end benchmark uses all of them.
STORIES = 12_000


@pytest.fixture(autouse=True)
def _leave_no_garbage() -> Iterator[None]:
    """Log here what cut connections did to tasks: Python 3.11 fails if it logs a traceback within `ast.parse`."""
    yield
    gc.collect()


@pytest.fixture
def settings(kafka_bootstrap: str, fresh_database: str) -> Settings:
    """Empty topics and an empty, migrated database. Small windows and transactions can be hit in more places."""
    migrations.upgrade(fresh_database)
    return own_topics(kafka_bootstrap, database_url=fresh_database, window_texts=128, store_rows=200)


@pytest.fixture(scope="session")
def stories() -> list[bytes]:
    """News items: real headlines if they are available, or else the sample feed's, repeated under new ids."""
    data = Path(os.environ.get("EARLYBELL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data") / REAL
    if data.exists():
        return [
            json.dumps({"id": f"r{number}", "headline": row["title"], "published_at": "2026-01-05T09:30:00Z"}).encode()
            for number, row in enumerate(map(json.loads, data.read_text(encoding="utf-8").splitlines()[:STORIES]))
        ]
    good = []
    for line in FEED.read_bytes().splitlines():
        try:
            item = decode_news(line)
        except BadNews:
            continue
        if item.language in {None, "en"}:
            good.append(item)
    return [
        encode(msgspec.structs.replace(item, id=f"s{number}", revision=1))
        for number, item in zip(range(STORIES), itertools.cycle(good), strict=False)
    ]
