"""Test how the eleven sets are split, read, trained on, and compared, on made-up texts."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pytest import MonkeyPatch

from earlybell.inference.training.data import Example
from earlybell.inference.training.exit_methods import Exits, ExitWindow
from earlybell.inference.training.measures import softmax
from tests.benchmarks import eleven_sets, eleven_sets_models
from tests.benchmarks.eleven_sets_models import answers_of, character_tokenizer, passes_and_texts
from tests.benchmarks.eleven_sets_texts import split

WORDS = {"good": ["good", "fine", "great"], "bad": ["bad", "poor", "awful"]}


def made_up(count: int = 600, seed: int = 1) -> list[Example]:
    generator = random.Random(seed)
    examples = []
    for number in range(count):
        label = generator.choice(("good", "bad"))
        words = [*generator.choices(["the", "film", "was", "quite", str(number)], k=generator.randint(2, 9))]
        words.insert(generator.randint(0, len(words)), generator.choice(WORDS[label]))
        examples.append(Example(" ".join(words), label, "made-up"))
    return examples


def test_no_text_is_in_two_parts() -> None:
    labelled = made_up()
    texts = split(labelled, None, ["an unlabelled text"])
    parts = [{example.text for example in part} for part in (texts.train, texts.dev, texts.test)] + [{*texts.counted}]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert all(len(part) > 30 for part in parts)
    assert set.union(*parts) == {example.text for example in labelled} | {"an unlabelled text"}
    given = split(labelled, labelled[:50])
    assert {example.text for example in given.test} == {example.text for example in labelled[:50]}
    assert not {example.text for example in given.test} & {example.text for example in given.train}
    assert split(labelled, None) == split(list(labelled), None)


def test_training_stays_within_its_tokens() -> None:
    assert passes_and_texts(np.full(50, 5, np.int32), 1000) == (4, 50)
    assert passes_and_texts(np.full(10, 5, np.int32), 1000) == (6, 10), "never more than six passes"
    assert passes_and_texts(np.full(900, 5, np.int32), 1000) == (1, 200)
    assert passes_and_texts(np.full(80, 5, np.int32), 1000) == (2, 80)


def test_characters_are_pieces_of_a_chinese_vocabulary() -> None:
    tokenizer = character_tokenizer(["味道很好，送得快", "味道不好 ok 10元", "很快 OK 10分"])
    assert tokenizer.encode("味道好ok10!", add_special_tokens=False).tokens == [
        "味", "道", "好", "o", "##k", "##1", "##0", "[UNK]",
    ]  # fmt: skip
    assert "送" not in tokenizer.get_vocab(), "seen once"


def test_a_set_is_trained_once_and_its_answers_are_kept(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """The whole of a set, at a size of a few seconds."""
    small = replace(eleven_sets_models.SMALL, embedding=32, hidden=32, heads=2, feed_forward=64)
    monkeypatch.setattr(eleven_sets_models, "SMALL", small)
    monkeypatch.setattr(eleven_sets_models, "CHINESE", replace(eleven_sets_models.CHINESE, tokens=3_000))
    texts = split(made_up(300), None)
    answers = answers_of("made-up", texts, chinese=True, runs=tmp_path)  # characters need no backbone
    assert answers.labels == ("bad", "good")
    assert answers.test.logits.shape == (len(texts.test), 6, 2)
    assert len(answers.counted.rows) == len(texts.counted)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained or computed again")

    monkeypatch.setattr(eleven_sets_models, "fit", fail)
    monkeypatch.setattr(eleven_sets_models, "all_logits", fail)
    again = answers_of("made-up", texts, chinese=True, runs=tmp_path)
    assert np.array_equal(again.test.logits, answers.test.logits)

    figures = eleven_sets.figures(again)
    assert figures["accuracy_per_exit"][-1] == pytest.approx(
        float(np.mean(again.test.logits[:, -1].argmax(-1) == again.test.truth)), abs=1e-4
    )
    for row in (*figures["exits"].values(), *figures["prediction_alone"].values()):
        assert row["layers_saved"] == pytest.approx(1 - row["mean_depth"] / 6, abs=1e-4)
    assert figures["exits"]["fixed"]["mean_depth"] == int(figures["exits"]["fixed"]["mean_depth"])
    assert eleven_sets.means([figures, figures])["exits"]["cwb"] == pytest.approx(figures["exits"]["cwb"], abs=1e-4)


def test_a_fast_setting_is_not_chosen_by_luck() -> None:
    """Fixed depths that lose much, then little, then nothing: the slowest loss ends the search."""
    texts = 400
    truth = np.zeros(texts, np.int64)
    logits = np.zeros((texts, 6, 2), np.float32)
    logits[:, :, 0] = 4.0
    logits[: texts // 2, 3, 0] = -4.0  # depth 4 gets half wrong; depths 1 to 3 get nothing wrong
    exits = Exits(softmax(logits), 1)
    methods = eleven_sets.settings({"cwb": ExitWindow("agreement", 3, 0.2)})
    assert eleven_sets.fastest(methods["fixed"], exits, truth).depth == 5
    assert eleven_sets.fastest(methods["cwb"][1:], exits, truth).depths(exits).tolist() == [1] * texts
