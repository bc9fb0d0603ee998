from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.token_ids import TokenIds

TEXTS = st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=8)


def pack(texts: list[list[int]]) -> TokenIds:
    return TokenIds.pack(np.array(text, np.int32) for text in texts)


def unpack(texts: TokenIds) -> list[list[int]]:
    return [ids.tolist() for ids in texts]


@given(texts=TEXTS)
def test_packed_texts_are_a_sequence_of_their_ids(texts: list[list[int]]) -> None:
    packed = pack(texts)
    assert len(packed) == len(texts)
    assert unpack(packed) == texts
    assert packed.lengths.tolist() == [len(text) for text in texts]
    assert [packed[row - len(texts)].tolist() for row in range(len(texts))] == texts
    assert unpack(packed[1:-1]) == texts[1:-1]
    assert unpack(packed[::-1]) == texts[::-1]
    with pytest.raises(IndexError):
        packed[len(texts)]


@given(data=st.data())
def test_any_rows_can_be_taken_in_any_order(data: st.DataObject) -> None:
    texts = data.draw(TEXTS.filter(bool))
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1)))
    assert unpack(pack(texts).take(np.array(rows, np.int64))) == [texts[row] for row in rows]
