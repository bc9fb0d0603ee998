"""The engine's peers and its own strategies behind one call: texts in, answers out.

BERT-base has random weights here, so it has no accuracy: nothing is downloaded, and its speed does not depend on them.
``python -m tests.benchmarks.engine_peers NAME`` prints a peer's memory and time to the first answer.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from earlybell.inference.backends.padded import DTYPES
from earlybell.inference.batching.strategies import STRATEGIES
from earlybell.inference.engine import open_engine
from earlybell.inference.model.checkpoint import SHIPPED
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.predictions import Predictions
from earlybell.inference.training.backbones import backbone_directory
from earlybell.inference.training.optimise import training_precision
from tests.benchmarks import engine_clock, fastbert

BATCH = 32
#: Where the student's teacher, a model without shared layers, is looked for.
TEACHER = Path(os.environ.get("EARLYBELL_TEACHER", "runs/teacher-minilm"))
#: Of torch's peers and strategies; a processor that has to emulate bfloat16 takes hours over it.
TORCH_PRECISION = training_precision("cpu", "auto")
DTYPE = DTYPES[TORCH_PRECISION]


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that classifies texts."""

    name: str
    score: Callable[[Sequence[str]], Predictions | None]  # None: random weights, nothing to compare
    share: int  # texts per round, chosen so that all peers' rounds take about as long


def peers() -> dict[str, Callable[[], Peer]]:
    """Return, by name, functions that open the peers."""
    openers: dict[str, Callable[[], Peer]] = {
        "bert_base_batch1": lambda: _pipeline("bert_base_batch1", torch.float32, 1, 32),
        "bert_base_batch32_float32": lambda: _pipeline("bert_base_batch32_float32", torch.float32, BATCH, 2 * BATCH),
        "bert_base_int8": _onnx,
        "fastbert_float32": lambda: _fastbert("fastbert_float32", fastbert.weights(), torch.float32),
    }
    if TORCH_PRECISION == "bfloat16":
        openers |= {
            "bert_base_batch32_bfloat16": lambda: _pipeline(
                "bert_base_batch32_bfloat16", torch.bfloat16, BATCH, 4 * BATCH
            ),
            "fastbert_bfloat16": lambda: _fastbert("fastbert_bfloat16", fastbert.weights(), torch.bfloat16),
        }
    if fastbert.is_trained():
        openers["fastbert_our_weights"] = lambda: _fastbert("fastbert_our_weights", SHIPPED, DTYPE)
    if TEACHER.is_dir():
        openers["teacher_unshared"] = _teacher
    for strategy in STRATEGIES:
        name = f"earlybell_{TORCH_PRECISION}_{strategy}"
        openers[name] = lambda name=name, strategy=strategy: _earlybell(name, TORCH_PRECISION, strategy, 600)  # type: ignore[misc]
    for strategy in STRATEGIES:
        name = f"earlybell_int8_{strategy}"
        openers[name] = lambda name=name, strategy=strategy: _earlybell(name, "int8", strategy, 2_400)  # type: ignore[misc]
    openers["earlybell_as_accurate"] = lambda: _earlybell(
        "earlybell_as_accurate", "auto", "auto", 2_400, fastbert.dial_as_accurate()
    )
    openers["earlybell"] = lambda: _earlybell("earlybell", "auto", "auto", 2_400)
    return openers


def by_length(texts: Sequence[str], share: int) -> list[str]:
    """Return ``share`` texts in whole batches, at even intervals of all texts sorted by length."""
    ordered = sorted(texts, key=len)
    batches = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
    wanted = max(1, share // BATCH)
    return [text for index in np.linspace(0, len(batches) - 1, wanted).astype(int) for text in batches[index]]


def _bert(dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=3)).eval().to(dtype)
    # This backbone, from the training extra, shares BERT-base's vocabulary.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(backbone_directory("minilm") / "tokenizer.json"),
        pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]",
        model_max_length=512,
    )  # fmt: skip
    return model, tokenizer


def _pipeline(name: str, dtype: torch.dtype, batch: int, share: int) -> Peer:
    from transformers import pipeline

    model, tokenizer = _bert(dtype)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", dtype=dtype)

    def score(texts: Sequence[str]) -> None:
        with torch.inference_mode():
            classify(list(texts), batch_size=batch, truncation=True)

    return Peer(name, score, share)


def _onnx() -> Peer:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model, tokenizer = _bert(torch.float32)
    model.set_attn_implementation("eager")
    folder = Path(tempfile.mkdtemp(prefix="earlybell-bench-"))
    ids = torch.randint(5, 1_000, (2, 16))
    axes = {0: "texts", 1: "tokens"}
    torch.onnx.export(
        _Logits(model), (ids, torch.ones_like(ids)), folder / "float32.onnx", dynamo=False, opset_version=17,
        input_names=["ids", "mask"], output_names=["logits"], dynamic_axes={"ids": axes, "mask": axes},
    )  # fmt: skip
    quantize_dynamic(folder / "float32.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = engine_clock.THREADS
    session = onnxruntime.InferenceSession(folder / "int8.onnx", options, providers=["CPUExecutionProvider"])

    def score(texts: Sequence[str]) -> None:
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(list(texts[start : start + BATCH]), padding=True, truncation=True, return_tensors="np")
            session.run(None, {"ids": batch["input_ids"], "mask": batch["attention_mask"]})

    return Peer("bert_base_int8", score, 8 * BATCH)


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T), (B, T) -> (B, C)."""
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits


def _fastbert(name: str, checkpoint: Path, dtype: torch.dtype) -> Peer:
    return Peer(name, fastbert.scorer(checkpoint, dtype, BATCH), 600)


def _teacher() -> Peer:
    model = ElbertForSequenceClassification.from_pretrained(TEACHER).eval().to(torch.float32)
    from earlybell.inference.model.tokenizer import Reader

    reader = Reader.open(TEACHER / "tokenizer.json", 512)
    model.embedding.to(DTYPE)
    model.layers.to(DTYPE)
    last = model.config.layers

    def score(texts: Sequence[str]) -> Predictions:
        all_ids = reader.read(texts)
        probabilities = np.zeros((len(texts), model.config.classes), np.float32)
        order = np.argsort([len(ids) for ids in all_ids], kind="stable")
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                lengths = torch.tensor([len(all_ids[row]) for row in rows])
                live = torch.arange(int(lengths.max())) < lengths[:, None]
                padded = torch.zeros(live.shape, dtype=torch.int64)
                padded[live] = torch.from_numpy(np.concatenate([all_ids[row] for row in rows]).astype(np.int64))
                x = model.embed(padded)
                for depth in range(1, last + 1):
                    x, live = model.deepen(x, live, depth)
                probabilities[rows] = model.exit_logits(x, live, last).softmax(-1).numpy()
        tokens = np.array([len(ids) for ids in all_ids], np.int32)
        depths = np.full(len(texts), last, np.int16)
        known = np.ones(len(texts), np.float32)
        return Predictions(probabilities, depths, np.full(len(texts), np.nan, np.float32), tokens, tokens, known)

    return Peer("teacher_unshared", score, 300)


def _earlybell(name: str, precision: str, strategy: str, share: int, dial: float | None = None) -> Peer:
    engine = open_engine("cpu", precision=precision, strategy=strategy, dial=dial, threads=engine_clock.THREADS)
    engine.warm_up()
    return Peer(name, engine.score, share)


def main(name: str) -> None:
    """Open a peer, let it answer, and print seconds from the process's start to the first answer, and memory in MiB."""
    engine_clock.set_threads()
    peer = peers()[name]()
    peer.score(["Acme raises its outlook after a record quarter"])
    first_answer_s = time.time() - psutil.Process().create_time()
    peer.score(["Acme raises its outlook after a record quarter"] * 64)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    memory = {
        f"{name}_mib": int(status[field].split()[0]) / 1024
        for name, field in (("resident", "VmRSS"), ("peak", "VmHWM"))
    }
    print(json.dumps({"first_answer_s": first_answer_s, **memory}))


if __name__ == "__main__":
    main(sys.argv[1])
