"""Tokenizing ahead of the device: the same ids in the same order, and the same answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from earlybell.inference import engine as engines
from earlybell.inference.engine import open_engine, read_ahead
from earlybell.inference.kernels import library
from earlybell.inference.model.checkpoint import SHIPPED
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.token_ids import Ids, TokenIds
from tests.patience import PATIENCE_S

SUBJECTS = ("Acme’s Q3 profit", "The U.S. jobs report", "Café au Lait S.A.", "株価 in Tokyo", "Crude-oil futures", "")
VERBS = ("soars 12.5%", "falls — again", "is steady @ 9am", "beats “estimates”", "https://only.a/link", "x" * 120)


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PORTION", 48)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture(params=[False, True], ids=["tokenizers library", "compiled word pieces"])
def reader(request: pytest.FixtureRequest) -> Reader:
    if request.param and library.load() is None:
        pytest.skip("no kernels here")
    return Reader.open(SHIPPED / "tokenizer.json", 512, compiled=request.param)


def news(count: int) -> list[str]:
    return [f"{SUBJECTS[n % 6]} {VERBS[n // 6 % 6]} {'and so on, ' * (n % 11)} no. {n}" for n in range(count)]


@pytest.mark.parametrize("count", [0, 1, 7, 47, 48, 49, 96, 1_000])
def test_portions_contain_all_texts_in_order(reader: Reader, thread: ThreadPoolExecutor, count: int) -> None:
    texts = news(count)
    portions = list(read_ahead(reader.read, texts, thread))
    assert [len(portion) for portion in portions] == [min(48, count - start) for start in range(0, count, 48)]
    assert_same([ids for portion in portions for ids in portion], reader.read(texts))


def test_a_reader_is_thread_safe(reader: Reader) -> None:
    """All threads start together with different texts, so shared scratch memory would show."""
    barrier = threading.Barrier(4)
    shares = [news(3_000)[start::4] for start in range(4)]

    def read(share: Sequence[str]) -> list[Ids]:
        barrier.wait(timeout=PATIENCE_S)
        return [ids for _ in range(3) for ids in reader.read(share)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read, shares))
    for share, result in zip(shares, results, strict=True):
        assert_same(result, list(reader.read(share)) * 3)


def test_only_the_next_portion_is_read_ahead(thread: ThreadPoolExecutor) -> None:
    texts_read: list[str] = []
    second_read, third_begun = threading.Event(), threading.Event()

    def record(texts: Sequence[str]) -> TokenIds:
        texts_read.extend(texts)
        if "text 95" in texts:
            second_read.set()
        if "text 96" in texts:
            third_begun.set()
        return TokenIds.pack([np.zeros(1, np.int32)] * len(texts))

    portions = read_ahead(record, [f"text {n}" for n in range(144)], thread)
    next(portions)
    assert second_read.wait(timeout=PATIENCE_S)
    assert not third_begun.is_set(), "only one portion is read ahead"
    assert len(list(portions)) == 2
    assert len(texts_read) == 144


def test_an_error_in_a_thread_is_raised_in_the_caller(thread: ThreadPoolExecutor) -> None:
    def fail(texts: Sequence[str]) -> TokenIds:
        raise ValueError(f"cannot read {texts[0]}")

    with pytest.raises(ValueError, match="cannot read text"):
        list(read_ahead(fail, ["text"] * 60, thread))


def test_reading_ahead_does_not_change_a_bit_of_an_answer(
    tiny_checkpoint: Path, texts: list[str], thread: ThreadPoolExecutor
) -> None:
    engine = open_engine("cpu", checkpoint=tiny_checkpoint, precision="float32", exact=True)
    assert engine._ahead is None, "a CPU engine does not read ahead"
    at_once = engine.score(texts)
    engine._ahead = thread  # as on a GPU
    ahead = engine.score(texts)
    assert len(texts) > 2 * 48
    assert ahead.probabilities.tobytes() == at_once.probabilities.tobytes()
    for name in ("exit_depth", "predicted_depth", "tokens", "tokens_kept"):
        assert np.array_equal(getattr(ahead, name), getattr(at_once, name)), name


def assert_same(actual: Sequence[Ids], expected: Sequence[Ids]) -> None:
    assert [ids.tolist() for ids in actual] == [ids.tolist() for ids in expected]
