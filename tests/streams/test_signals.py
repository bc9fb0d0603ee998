"""What the scoring role and `earlybell score` share: which news a model can score, and what it costs a window."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from earlybell.streams.records import BadNews, NewsItem
from earlybell.streams.signals import build_signal, unsupported_language
from earlybell.streams.token_budget import estimate_tokens
from tests.benchmarks.constant_scorer import ConstantScorer


@pytest.mark.parametrize(
    ("language", "supported"),
    [
        *((tag, True) for tag in (None, "en", "en-GB", "EN-us", "en_US", "und", "und-Latn")),
        *((tag, False) for tag in ("de", "de_AT", "eng", "")),
    ],
)
def test_only_the_primary_subtag_of_a_language_counts(language: str | None, supported: bool) -> None:
    item = NewsItem(id="a", headline="h", published_at=datetime(2026, 3, 2, tzinfo=UTC), language=language)
    reason = unsupported_language(item, ("en",))
    assert (reason is None) == supported
    if reason is not None:
        assert reason == f"language {language!r} is not supported: the model reads en"


@pytest.mark.parametrize("language", [None, "und"])
def test_a_text_whose_language_is_not_known_is_looked_at(language: str | None) -> None:
    text = "Der Umsatz der Handelskette steigt um acht Prozent"
    item = NewsItem(id="a", headline=text, published_at=datetime(2026, 3, 2, tzinfo=UTC), language=language)
    model = ConstantScorer("cpu").description
    prediction = ConstantScorer("cpu").score([text])[0]._replace(known=0.1)
    with pytest.raises(BadNews, match="'de'"):
        build_signal(item, prediction, model, scored_at=datetime.now(UTC))
    named = msgspec.structs.replace(item, language="en")
    assert build_signal(named, prediction, model, scored_at=datetime.now(UTC)).label == prediction.label


def test_a_text_costs_its_special_tokens_at_least() -> None:
    assert estimate_tokens("") == 2
    assert estimate_tokens("x" * 400) == 102
