"""What teachers say of texts: their logits, computed once and kept, so that several students can learn from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.elbert import ElbertForSequenceClassification
from inference.pretrained import WEIGHTS_FILE
from inference.reading import Reader
from inference.training.data import hash_file
from inference.training.optimise import all_logits

#: Texts that are labelled between two saves: what an interruption can lose.
SHARD_TEXTS = 50_000


def teacher_logits(
    teacher: Path, texts: Sequence[str], cache: Path, *, device: str = "cpu", precision: str = "bfloat16"
) -> NDArray[np.float32]:
    """(texts, C) logits of a teacher's last exit. Shards that are in ``cache`` already are not computed again."""
    revision = hash_file(teacher / WEIGHTS_FILE)[:12]
    model, reader = None, None
    shards: list[NDArray[np.float32]] = []
    for start in range(0, len(texts), SHARD_TEXTS):
        part = texts[start : start + SHARD_TEXTS]
        key = hashlib.sha256("\n".join(part).encode("utf-8", "replace")).hexdigest()[:16]
        file = cache / f"{revision}-{key}.npy"
        if not file.is_file():
            if model is None:
                model = ElbertForSequenceClassification.from_pretrained(teacher)
                reader = Reader.open(teacher / "tokenizer.json", model.config.positions)
            assert reader is not None
            logits = all_logits(
                model, reader.read(part), device=device, precision=precision, title=f"{teacher.name} labels"
            )[:, -1]
            cache.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_suffix(".unfinished.npy")
            np.save(unfinished, logits)
            unfinished.replace(file)
        shards.append(np.load(file))
    return np.concatenate(shards) if shards else np.empty((0, 0), np.float32)
