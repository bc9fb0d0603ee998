from __future__ import annotations

from pathlib import Path

import pytest

from earlybell.inference.training.data import Example, is_held_out
from earlybell.inference.training.judgement import by_reading
from earlybell.inference.training.judgement.by_reading import digest, labelled_by_reading, signs

HEADLINES = [f"Tolva {verb} its outlook for year {year}" for verb in ("cuts", "raises", "keeps") for year in range(100)]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Headlines of which all but the last were read, and the readers' answers."""
    headlines, read = tmp_path / "headlines.txt", tmp_path / "read.txt"
    headlines.write_text("\n".join(HEADLINES) + "\n")
    sign = {"cuts": "-", "raises": "+", "keeps": "0"}
    read.write_text("".join(f"{digest(headline)}{sign[headline.split()[1]]}\n" for headline in HEADLINES[:-1]))
    return headlines, read


def test_those_that_were_read_have_their_labels(files: tuple[Path, Path]) -> None:
    headlines, read = files
    trained = labelled_by_reading(headlines, 1_000, 1, [Example(HEADLINES[0], "negative", "x")], file=read)
    aside = labelled_by_reading(headlines, 1_000, 1, kept_aside=True, file=read)
    texts = {example.text for example in (*trained, *aside)} | {HEADLINES[0]}
    assert texts == set(HEADLINES[:-1])
    assert {is_held_out(example.text, by_reading.SOURCE) for example in trained} == {False}
    assert aside
    assert {is_held_out(example.text, by_reading.SOURCE) for example in aside} == {True}
    for example in trained:
        assert example.label == {"cuts": "negative", "raises": "positive", "keeps": "neutral"}[example.text.split()[1]]


def test_a_sample_is_drawn_by_its_seed(files: tuple[Path, Path]) -> None:
    headlines, read = files
    drawn = {seed: labelled_by_reading(headlines, 20, seed, file=read) for seed in (1, 2)}
    assert drawn[1] == labelled_by_reading(headlines, 20, 1, file=read)
    assert drawn[1] != drawn[2]
    assert len(drawn[1]) == 20


def test_the_readers_answers_hold_no_headline() -> None:
    lines = by_reading.FILE.read_text().splitlines()
    assert len(lines) == len(signs()) > 10_000
    assert {len(line) for line in lines} == {11}
