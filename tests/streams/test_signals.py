"""What the scoring role and `earlybell score` share: which news a model can score, and what it costs a window."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from earlybell.streams.records import NewsItem
from earlybell.streams.signals import unsupported_language
from earlybell.streams.token_budget import estimate_tokens


@pytest.mark.parametrize(
    ("language", "supported"),
    [(None, True), ("en", True), ("en-GB", True), ("EN-us", True), ("de", False), ("eng", False), ("", False)],
)
def test_only_the_primary_subtag_of_a_language_counts(language: str | None, supported: bool) -> None:
    item = NewsItem(id="a", headline="h", published_at=datetime(2026, 3, 2, tzinfo=UTC), language=language)
    reason = unsupported_language(item, ("en",))
    assert (reason is None) == supported
    if reason is not None:
        assert reason == f"language {language!r} is not supported: the model reads en"


def test_a_text_costs_its_special_tokens_at_least() -> None:
    assert estimate_tokens("") == 2
    assert estimate_tokens("x" * 400) == 102
