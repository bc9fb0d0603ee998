"""`earlybell train-teacher`: fine-tunes an encoder of any architecture that transformers loads, to teach students.

A teacher labels texts once and is never served, so it may be slow and need not be an ELBERT. It has one exit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel

from earlybell.inference.model.tokenizer import normalise
from earlybell.inference.model.weights import CheckpointError
from earlybell.inference.training.backbones import backbone_directory
from earlybell.inference.training.data import LABELS, UNLABELLED, hash_file, read_corpus
from earlybell.inference.training.judgement.by_reading import labelled_by_reading
from earlybell.inference.training.judgement.grammar import sentences
from earlybell.inference.training.measures import accuracy
from earlybell.inference.training.optimise import Schedule, by_length, optimise, pad
from earlybell.inference.training.records import write_record

#: Tells a teacher of this kind from a checkpoint of ours.
TEACHER_FILE = "teacher.safetensors"
#: Tokens that are read of a text, and tokens per batch that is labelled.
MAX_TOKENS, BATCH_TOKENS = 96, 2_048
DROPOUT, SMOOTHING, HEAD_WIDTH = 0.1, 0.05, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTraining:
    """One run of `train_teacher`."""

    data: Path
    out: Path
    start: str  # a backbone's name, or a directory: an encoder, or a teacher that goes on learning
    labelled_repeats: int = 3
    constructed: int = 0  # sentences of the grammar (`judgement.grammar`)
    by_reading: int = 0  # headlines that a reader labelled (`judgement.by_reading`)
    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=1, learning_rate=4e-5, head_learning_rate=4e-4, layer_decay=0.93)
    )


class EncoderTeacher(nn.Module):
    """An encoder and a classifier on the first token's state and the mean of all."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder: PreTrainedModel = encoder
        self.pad_id: int = encoder.config.pad_token_id or 0  # padding is masked: any id will do
        self.dropout = nn.Dropout(DROPOUT)
        # `optimise` takes what is called an exit for a head.
        self.exit_hidden = nn.Linear(2 * encoder.config.hidden_size, HEAD_WIDTH)
        self.exit_logits = nn.Linear(HEAD_WIDTH, len(LABELS))

    @classmethod
    def to_train(cls, directory: Path) -> EncoderTeacher:
        """Return a teacher that `train_teacher` wrote, or an untrained one on a pre-trained encoder.

        Its token embedding is not trained.
        """
        if is_encoder_teacher(directory):
            teacher = cls.load(directory).train()
        else:
            try:
                teacher = cls(AutoModel.from_pretrained(directory, local_files_only=True))
            except (OSError, ValueError) as error:
                reason = str(error).strip().partition("\n")[0]
                raise CheckpointError(f"{directory} is no encoder that transformers loads: {reason}") from error
        for name, value in teacher.encoder.named_parameters():
            value.requires_grad = not name.startswith("embeddings.")
        return teacher

    @classmethod
    def load(cls, directory: Path) -> EncoderTeacher:
        """Return a teacher that `train_teacher` wrote."""
        teacher = cls(AutoModel.from_config(AutoConfig.from_pretrained(directory, local_files_only=True)))
        teacher.load_state_dict(load_file(directory / TEACHER_FILE))
        return teacher.eval()

    def save(self, directory: Path) -> None:
        """Write the teacher, without a tokenizer."""
        self.encoder.config.save_pretrained(directory)
        save_file(self.state_dict(), directory / TEACHER_FILE)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits (B, C) of padded texts; ``ids`` and ``mask`` are (B, T)."""
        states = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        read = mask[..., None].to(states.dtype)
        summary = torch.cat([states[:, 0], (states * read).sum(1) / read.sum(1)], -1)
        logits: Tensor = self.exit_logits(self.dropout(torch.tanh(self.exit_hidden(self.dropout(summary)))))
        return logits


def train_teacher(run: TeacherTraining) -> dict[str, Any]:
    """Fit a teacher to the labelled texts, write it with its record to ``run.out`` and return the record's figures.

    Run again after an interruption, it resumes; the same seed on the same machine gives the same figures.

    Raises
    ------
    DataError
        If the data is missing.
    CheckpointError
        If the start is no encoder, or has no ``tokenizer.json``.
    """
    corpus = read_corpus(run.data)
    torch.manual_seed(run.schedule.seed)
    start = backbone_directory(run.start)
    tokenizer = _tokenizer(start)
    teacher = EncoderTeacher.to_train(start).to(run.schedule.device)
    examples = run.labelled_repeats * list(corpus.train) + sentences(run.constructed, run.schedule.seed)
    hashes, unlabelled = dict(corpus.hashes), run.data / UNLABELLED
    if run.by_reading:
        examples += labelled_by_reading(unlabelled, run.by_reading, run.schedule.seed, corpus.held_out)
        hashes[unlabelled.name] = hash_file(unlabelled)
    rows = _read(tokenizer, [example.text for example in examples])
    truth = torch.tensor([LABELS.index(example.label) for example in examples], device=run.schedule.device)

    def loss_of(batch: list[int]) -> Tensor:
        logits = teacher(*pad([rows[index] for index in batch], teacher.pad_id, run.schedule.device))
        return F.cross_entropy(logits.float(), truth[batch], label_smoothing=SMOOTHING)

    run.out.mkdir(parents=True, exist_ok=True)
    lengths = [len(row) for row in rows]
    seconds = optimise(teacher, lengths, loss_of, run.schedule, state_file=run.out / "state.pt", title="teacher")
    teacher.save(run.out)
    shutil.copyfile(start / "tokenizer.json", run.out / "tokenizer.json")
    figures: dict[str, Any] = {"seconds": round(seconds, 1), "texts": len(rows)}
    answers = labeller(run.out, run.schedule.device, run.schedule.precision)([example.text for example in corpus.dev])
    right = np.array([LABELS.index(example.label) for example in corpus.dev])
    sources = np.array([example.source for example in corpus.dev])
    for source in sorted(set(sources)):
        of_source = sources == source
        figures[f"dev_{source}"] = {
            "accuracy": round(accuracy(right[of_source], answers[of_source].argmax(-1)), 4),
            "n": int(of_source.sum()),
        }
    write_record(run.out, run, hashes, figures)
    return figures


def is_encoder_teacher(directory: Path) -> bool:
    """Whether `train_teacher` wrote this directory."""
    return (directory / TEACHER_FILE).is_file()


def labeller(directory: Path, device: str, precision: str) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Load a teacher that `train_teacher` wrote, and return what maps texts to its logits, (texts, C)."""
    teacher, tokenizer = EncoderTeacher.load(directory).to(device), _tokenizer(directory)

    @torch.inference_mode()
    def logits(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = _read(tokenizer, texts)
        out = np.empty((len(rows), len(LABELS)), np.float32)
        for batch in track(list(by_length([len(row) for row in rows], BATCH_TOKENS)), f"{directory.name} labels"):
            ids, mask = pad([rows[index] for index in batch], teacher.pad_id, device)
            with torch.autocast(device.split(":", maxsplit=1)[0], torch.bfloat16, precision == "bfloat16"):
                out[batch] = teacher(ids, mask).float().cpu().numpy()
        return out

    return logits


def _tokenizer(directory: Path) -> Tokenizer:
    file = directory / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(f"{directory} has no tokenizer.json: save it beside the encoder")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def _read(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int32]]:
    return [np.array(one.ids, np.int32) for one in tokenizer.encode_batch([normalise(text) for text in texts])]
