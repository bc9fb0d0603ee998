from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.batching.planning import bucket
from earlybell.inference.batching.strategies import STRATEGIES
from earlybell.inference.engine import Engine, EngineError, open_engine
from earlybell.inference.model.checkpoint import CheckpointError
from earlybell.inference.predictions import Predictions

DIALS = (0.0, 0.5, 0.75, 1.0)
INDEPENDENT = ("shrink", "presort", "refill")


@pytest.fixture
def engine(tiny_checkpoint: Path) -> Engine:
    return open_engine("cpu", checkpoint=tiny_checkpoint, precision="float32")


def test_it_says_what_it_is(engine: Engine) -> None:
    described = engine.description
    assert described.model == "tiny"
    assert described.labels == ("negative", "neutral", "positive")
    assert described.policy == "dial=0.50"
    assert (described.depth_limit, described.max_tokens, described.precision) == (4, 128, "float32")
    assert described.languages == ("en",)


def test_answers_come_in_the_order_of_the_texts(engine: Engine, texts: list[str]) -> None:
    answers = engine.score(texts)
    assert len(answers) == len(texts)
    assert answers.probabilities.shape == (len(texts), 3)
    assert np.allclose(answers.probabilities.sum(1), 1, atol=1e-5)
    backwards = engine.score(texts[::-1])
    assert np.array_equal(backwards.exit_depth[::-1], answers.exit_depth)
    assert np.array_equal(backwards.tokens[::-1], answers.tokens)
    assert len(set(answers.exit_depth.tolist())) > 1, "the fixture must make texts leave at different depths"


def test_no_texts_give_no_rows(engine: Engine) -> None:
    assert engine.score([]).probabilities.shape == (0, 3)


def test_an_empty_text_is_answered(engine: Engine) -> None:
    answer = engine.score(["", "https://only.a/link"])
    assert answer.tokens.tolist() == [2, 2]
    assert np.isfinite(answer.predicted_depth).all()


def test_dial_0_is_full_depth_and_agrees_with_the_padded_baseline(tiny_checkpoint: Path, texts: list[str]) -> None:
    exact = open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.0, precision="float32").score(texts)
    baseline = open_engine("cpu", checkpoint=tiny_checkpoint, dial=1.0, precision="float32", strategy="padded").score(
        texts
    )
    assert set(exact.exit_depth.tolist()) == {4}
    same(exact, baseline)


def test_a_faster_dial_runs_fewer_layers_and_keeps_fewer_tokens(tiny_checkpoint: Path, texts: list[str]) -> None:
    mean = [open_engine("cpu", checkpoint=tiny_checkpoint, dial=dial).score(texts).exit_depth.mean() for dial in DIALS]
    assert mean[0] == 4
    assert mean[3] < mean[0]
    pruned = open_engine("cpu", checkpoint=tiny_checkpoint, dial=1.0, precision="float32").score(texts)
    deep = pruned.exit_depth > 0
    assert bool((pruned.tokens_kept <= pruned.tokens).all())
    assert bool((pruned.tokens_kept[deep & (pruned.tokens > 8)] < pruned.tokens[deep & (pruned.tokens > 8)]).all())


def test_bfloat16_stays_close(tiny_checkpoint: Path, texts: list[str]) -> None:
    full = open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.0, precision="float32").score(texts)
    half = open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.0, precision="bfloat16").score(texts)
    agree = full.probabilities.argmax(1) == half.probabilities.argmax(1)
    assert agree.mean() > 0.9


def test_the_predicted_depth_is_the_mean_over_the_texts_own_tokens(
    engine: Engine, tiny_checkpoint: Path, texts: list[str]
) -> None:
    from earlybell.inference.model.checkpoint import load

    loaded = load(tiny_checkpoint)
    expected = loaded.calibration.expected_depths(0)
    assert expected is not None
    predicted = engine.score(texts).predicted_depth
    for text, found in zip(texts, predicted, strict=True):
        own = loaded.reader.read([text])[0][1:-1]
        if len(own):
            assert found == pytest.approx(float(expected[own].mean()), abs=1e-4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"device": "tpu"}, "give cpu, cuda"),
        ({"device": "cuda:99"}, "GPUs"),
        ({"device": "nonsense"}, "give cpu, cuda"),
        ({"precision": "int3"}, "choose auto"),
        ({"dial": 1.5}, "dial"),
        ({"dial": -0.1}, "dial"),
        ({"strategy": "magic"}, "choose auto or one of"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(tiny_checkpoint: Path, wrong: dict[str, str], says: str) -> None:
    with pytest.raises(EngineError, match=says) as refused:
        open_engine(**{"checkpoint": tiny_checkpoint, **wrong})  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        open_engine("cpu", checkpoint=tmp_path / "none")


def test_pure_prediction_leaves_each_text_at_its_predicted_depth(tiny_checkpoint: Path, texts: list[str]) -> None:
    pure = open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.5, precision="float32", strategy="predict").score(
        texts
    )
    assert pure.exit_depth.tolist() == np.rint(pure.predicted_depth).astype(int).tolist()
    assert len(set(pure.exit_depth.tolist())) > 1
    # Where the exit rule happens to leave at the same depth, the answers are the same.
    checked = open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.5, precision="float32").score(texts)
    same_depth = pure.exit_depth == checked.exit_depth
    assert same_depth.any()
    assert np.allclose(pure.probabilities[same_depth], checked.probabilities[same_depth], atol=1e-5)


def test_warming_up_changes_nothing(engine: Engine, texts: list[str]) -> None:
    before = engine.score(texts)
    engine.warm_up()
    same(before, engine.score(texts))


@given(tokens=st.integers(1, 512))
def test_a_bucket_holds_its_text_with_little_padding(tokens: int) -> None:
    assert tokens <= bucket(tokens) < tokens + max(8, 32 * (tokens > 64))


def test_the_strategies_are_known_by_name() -> None:
    assert {"padded", "shrink", "presort"} <= set(STRATEGIES)


def same(one: Predictions, other: Predictions) -> None:
    assert one.exit_depth.tolist() == other.exit_depth.tolist()
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.tokens_kept.tolist() == other.tokens_kept.tolist()
    assert np.allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert one.probabilities.argmax(1).tolist() == other.probabilities.argmax(1).tolist()
