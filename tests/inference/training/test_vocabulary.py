from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from earlybell.inference.model.checkpoint import SHIPPED, load
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.training.vocabulary import replace_pieces

TOKENIZER = SHIPPED / "tokenizer.json"
#: Emoji without pieces in the shipped vocabulary.
NEW = ("🎻", "🍕", "🦄")


@pytest.fixture
def model() -> ElbertForSequenceClassification:
    return ElbertForSequenceClassification.from_pretrained(SHIPPED)


def test_emoji_get_pieces_and_other_texts_keep_theirs(model: ElbertForSequenceClassification, tmp_path: Path) -> None:
    before = Reader.open(TOKENIZER, 512)
    size = len(model.embedding.token.weight)
    tokenizer, added = replace_pieces(model, TOKENIZER, NEW)
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    after = Reader.open(file, 512)
    assert len(model.embedding.token.weight) == size == tokenizer.get_vocab_size()
    assert len(added) == 2 * len(NEW)
    texts = ["Acme's profit rises 12 %", "EUR 3.1 mn – “a record”"]
    for old, new in zip(before.read(texts), after.read(texts), strict=True):
        np.testing.assert_array_equal(old, new)
    unknown = tokenizer.token_to_id("[UNK]")
    violin, pizza, thrice = after.read(["$ACME 🎻", "$ACME 🍕", "up🎻🎻🎻"])
    assert unknown not in np.concatenate([violin, pizza, thrice])
    assert violin[-2] != pizza[-2]


def test_an_emoji_starts_from_the_words_of_its_name(model: ElbertForSequenceClassification) -> None:
    words = load(SHIPPED).reader.read(["violin"])[0][1:-1].astype(np.int64)
    expected = model.embedding.token.weight[words].mean(0).detach()
    tokenizer, _ = replace_pieces(model, TOKENIZER, "🎻")
    row = model.embedding.token.weight[tokenizer.token_to_id("🎻")].detach()
    np.testing.assert_allclose(row.numpy(), expected.numpy())


def test_too_many_characters_are_refused(model: ElbertForSequenceClassification) -> None:
    many = "".join(chr(0x1F300 + index) for index in range(250))
    with pytest.raises(ValueError, match="pieces to add"):
        replace_pieces(model, TOKENIZER, many)
