from __future__ import annotations

import gzip
import json
import lzma
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.training.data import (
    DEV_SEED,
    REPORT_SEED,
    DataError,
    Example,
    data_directory,
    held_out_part,
    is_held_out,
    length_sorted_batches,
    read_corpus,
    read_posts,
    read_unlabelled,
    text_key,
)


@pytest.fixture
def corpus_directory(tmp_path: Path) -> Path:
    sentiment = tmp_path / "sentiment"
    sentiment.mkdir()

    def write(name: str, rows: list[dict[str, object]]) -> None:
        (sentiment / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("tfns_train.jsonl", [{"text": f"tweet {n} https://t.co/{n}", "label": "neutral"} for n in range(300)])
    write("tfns_validation.jsonl", [{"text": "Tweet 7!", "label": "neutral"}, {"text": "other", "label": "positive"}])
    write(
        "sentfin_train.jsonl",
        [{"text": f"headline {n}", "entities": {}, "label": None if n % 10 == 0 else "positive"} for n in range(300)],
    )
    both = [{"label": "Positive"}, {"label": "Negative"}]
    write("finentity.jsonl", [{"content": f"entity {n}", "annotations": both[: 1 + n % 2]} for n in range(40)])
    with lzma.open(tmp_path / "unlabelled.txt.xz", "wt") as file:
        file.write("".join(f"free {n}\n" for n in range(100)) + "tweet 7\n")
    return tmp_path


def test_report_and_dev_texts_are_not_trained_on(corpus_directory: Path) -> None:
    corpus = read_corpus(corpus_directory)
    train, dev = ({text_key(example.text) for example in part} for part in (corpus.train, corpus.dev))
    reported = {text_key(example.text) for part in corpus.report.values() for example in part}
    assert not train & dev
    assert not (train | dev) & reported
    assert text_key("tweet 7") in reported, "equal but for its URL, case and punctuation"
    assert all(is_held_out(example.text, REPORT_SEED) for example in corpus.report["sentfin_report"])
    assert 10 < len(corpus.report["sentfin_report"]) < 50
    assert {example.source for example in corpus.train} == {"tfns", "sentfin", "finentity"}
    assert sum(example.source == "finentity" for example in corpus.train + corpus.dev) == 20, "entities agree"
    assert set(corpus.hashes) == {"tfns_train.jsonl", "tfns_validation.jsonl", "sentfin_train.jsonl", "finentity.jsonl"}


def test_held_out_parts_were_not_trained_on(corpus_directory: Path) -> None:
    corpus = read_corpus(corpus_directory)
    assert held_out_part(corpus_directory, "sentfin_report") == (list(corpus.report["sentfin_report"]), [])
    dev, unlabelled = held_out_part(corpus_directory, "finentity_unseen")
    assert dev == [example for example in corpus.dev if example.source == "finentity"]
    assert sorted(unlabelled) == sorted(f"entity {n}" for n in range(1, 40, 2)), "texts whose entities disagree"
    with pytest.raises(DataError, match="choose one of tfns_validation, sentfin_report, finentity_unseen"):
        held_out_part(corpus_directory, "tfns")


def test_the_split_does_not_depend_on_the_order_of_a_file(corpus_directory: Path) -> None:
    before = {example.text for example in read_corpus(corpus_directory).dev}
    file = corpus_directory / "sentiment" / "tfns_train.jsonl"
    lines = file.read_text().splitlines()
    random.Random(1).shuffle(lines)
    file.write_text("\n".join(lines))
    assert {example.text for example in read_corpus(corpus_directory).dev} == before


def test_unlabelled_texts_are_sampled_by_seed_without_reported_ones(corpus_directory: Path) -> None:
    file = corpus_directory / "unlabelled.txt.xz"
    corpus = read_corpus(corpus_directory)
    reported = [example for part in corpus.report.values() for example in part]
    texts = read_unlabelled(file, 1_000, 1, reported)
    assert len(texts) == 100
    assert "tweet 7" not in texts
    assert read_unlabelled(file, 10, 1, reported) == texts[:10]
    assert read_unlabelled(file, 10, 2, reported) != texts[:10]


def test_english_posts_are_sampled_once_each(tmp_path: Path) -> None:
    file = tmp_path / "posts.jsonl.gz"
    rows = [{"text": f"post {n % 50}\n$ACME https://t.co/{n}", "lang": "en"} for n in range(100)]
    with gzip.open(file, "wt") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in [*rows, {"text": "bonjour", "lang": "fr"}])
    posts = read_posts(file, 1_000, 1, [Example("Post 7 $ACME", "neutral", "test")])
    assert len({text_key(post) for post in posts}) == len(posts) == 49
    assert not {"bonjour", "post7acme"} & {text_key(post) for post in posts}
    assert not any("\n" in post for post in posts)
    assert read_posts(file, 10, 1) == read_posts(file, 10, 1) != read_posts(file, 10, 2)


@given(text=st.text(max_size=40))
def test_urls_case_and_punctuation_do_not_make_another_text(text: str) -> None:
    assert text_key(text.lower() + " https://t.co/x !!") == text_key(text.lower())
    assert is_held_out(text, DEV_SEED) == is_held_out(text + " ...", DEV_SEED)


@given(lengths=st.lists(st.integers(2, 60), min_size=1, max_size=200), tokens=st.integers(60, 500))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], tokens: int) -> None:
    batches = length_sorted_batches(lengths, tokens, random.Random(1), texts=16)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= 16
        assert max(lengths[index] for index in batch) * len(batch) <= tokens


def test_missing_data_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no data at"):
        read_corpus(tmp_path)
    with pytest.raises(DataError, match="no unlabelled"):
        read_unlabelled(tmp_path / "none.txt", 1, 1)
    with pytest.raises(DataError, match="no tweets"):
        read_posts(tmp_path / "none.jsonl.gz", 1, 1)
    (tmp_path / "sentiment").mkdir()
    monkeypatch.setenv("EARLYBELL_DATA", str(tmp_path))
    assert data_directory() == tmp_path
    (tmp_path / "sentiment" / "tfns_train.jsonl").write_text("{broken\n")
    with pytest.raises(DataError, match="line 1: not JSON"):
        read_corpus(tmp_path)
