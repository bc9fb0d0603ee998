"""What the shipped model has no ground to judge is refused: other languages, and texts without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from earlybell.inference.model.checkpoint import SHIPPED, load
from earlybell.streams.languages import unreadable

#: Headlines in 33 languages, written for this test: language, headline.
FOREIGN = [
    line.split("\t") for line in Path(__file__).with_name("foreign_headlines.tsv").read_text("utf-8").splitlines()
]
#: The least share of the foreign headlines that must be recognised, and the largest share of English ones refused.
RECOGNISED, REFUSED = 0.85, 0.001


def reason(text: str) -> str | None:
    reader = load(SHIPPED).reader
    return unreadable(text, float(reader.known(reader.read([text]))[0]), ("en",))


def test_most_foreign_headlines_are_recognised() -> None:
    found = {(language, text): reason(text) for language, text in FOREIGN}
    missed = [text for text, why in found.items() if why is None]
    assert len(missed) <= (1 - RECOGNISED) * len(FOREIGN), missed
    named = sum(f"'{language}'" in (why or "") for (language, _), why in found.items())
    assert named > 0.7 * len(FOREIGN), "the reason names the language"


@pytest.mark.parametrize(
    "text",
    [
        "Acme beats estimates",
        "$ACME $BOLT $CRWD to the moon",
        "CymaBat halts trial of seladelpar; shares dip 4%",
        "Rémy Müller named chief executive of Société Générale",
        "🚀🚀🚀",
        "Q4 EPS $0.85 vs $1.02 est.",
        "TotalEnergies, Glenfarne ink Alaska LNG offtake LoI",
        "PepsiCo declares $0.955 dividend",
        "BoJ hikes",
    ],
)
def test_english_is_read_whatever_names_and_figures_it_has(text: str) -> None:
    assert reason(text) is None


@pytest.mark.parametrize("text", ["A" * 5_000, "A " * 2_500, "!!!", "123 456.78", "https://example.com/a", "zzzqqxx"])
def test_a_text_without_a_word_is_refused(text: str) -> None:
    assert "no word" in (reason(text) or "")


def test_a_model_of_another_language_reads_that_language() -> None:
    assert unreadable("Der Umsatz der Handelskette steigt um acht Prozent", 0.1, ("de",)) is None
    assert "'de'" in (unreadable("Der Umsatz der Handelskette steigt um acht Prozent", 0.1, ("fr", "en")) or "")


def test_real_english_headlines_are_hardly_ever_refused(shared_data: Path) -> None:
    lines = (shared_data / "replay/headlines_2026.jsonl").read_text("utf-8").splitlines()
    texts = [title for line in lines if (title := json.loads(line)["title"])]
    reader = load(SHIPPED).reader
    known = reader.known(reader.read(texts)).tolist()
    refused = [text for text, share in zip(texts, known, strict=True) if unreadable(text, share, ("en",))]
    assert len(refused) <= REFUSED * len(texts), refused
