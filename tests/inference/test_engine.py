from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.batching.planning import bucket
from earlybell.inference.batching.strategies import STRATEGIES
from earlybell.inference.early_exit.depth_prediction import DepthPrediction
from earlybell.inference.engine import Engine, EngineError, open_engine
from earlybell.inference.model.checkpoint import CheckpointError
from earlybell.inference.predictions import Predictions

DIALS = (0.0, 0.5, 0.75, 1.0)
INDEPENDENT = ("shrink", "presort", "refill")


@pytest.fixture
def engine(tiny_checkpoint: Path) -> Engine:
    return open_engine("cpu", checkpoint=tiny_checkpoint, precision="float32")


def test_the_description_names_the_model_and_its_settings(engine: Engine) -> None:
    description = engine.description
    assert description.model == "tiny"
    assert description.labels == ("negative", "neutral", "positive")
    assert description.policy == "dial=0.50"
    assert (description.depth_limit, description.max_tokens, description.precision) == (4, 128, "float32")
    assert description.languages == ("en",)


def test_answers_are_in_the_order_of_the_texts(engine: Engine, texts: list[str]) -> None:
    answers = engine.score(texts)
    assert len(answers) == len(texts)
    assert answers.probabilities.shape == (len(texts), 3)
    assert np.allclose(answers.probabilities.sum(1), 1, atol=1e-5)
    backwards = engine.score(texts[::-1])
    assert np.array_equal(backwards.exit_depth[::-1], answers.exit_depth)
    assert np.array_equal(backwards.tokens[::-1], answers.tokens)
    assert len(set(answers.exit_depth.tolist())) > 1, "the fixture must make texts exit at different depths"


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_a_windows_own_dial_answers_as_an_engine_at_that_dial(
    tiny_checkpoint: Path, texts: list[str], precision: str
) -> None:
    engine = open_engine("cpu", checkpoint=tiny_checkpoint, precision=precision)
    own = engine.score(texts)
    for dial in (*DIALS, *DIALS):
        expected = open_engine("cpu", checkpoint=tiny_checkpoint, precision=precision, dial=dial).score(texts)
        answers = engine.score(texts, dial)
        assert answers.exit_depth.tolist() == expected.exit_depth.tolist()
        assert np.array_equal(answers.probabilities, expected.probabilities)
    assert np.array_equal(engine.score(texts).probabilities, own.probabilities), "its own dial stays what it was"


def test_an_empty_window_has_no_answers(engine: Engine) -> None:
    assert engine.score([]).probabilities.shape == (0, 3)


def test_an_empty_text_is_answered(engine: Engine) -> None:
    answers = engine.score(["", "https://only.a/link"])
    assert answers.tokens.tolist() == [2, 2]
    assert np.isfinite(answers.predicted_depth).all()


def test_dial_0_is_full_depth_and_agrees_with_the_padded_baseline(tiny_checkpoint: Path, texts: list[str]) -> None:
    full_depth = open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.0, precision="float32").score(texts)
    padded = open_engine("cpu", checkpoint=tiny_checkpoint, dial=1.0, precision="float32", strategy="padded").score(
        texts
    )
    assert set(full_depth.exit_depth.tolist()) == {4}
    assert_same(full_depth, padded)


def test_a_faster_dial_runs_fewer_layers_and_keeps_fewer_tokens(tiny_checkpoint: Path, texts: list[str]) -> None:
    mean_depth = [
        open_engine("cpu", checkpoint=tiny_checkpoint, dial=dial).score(texts).exit_depth.mean() for dial in DIALS
    ]
    assert mean_depth[0] == 4
    assert mean_depth[3] < mean_depth[0]
    pruned = open_engine("cpu", checkpoint=tiny_checkpoint, dial=1.0, precision="float32").score(texts)
    deep = pruned.exit_depth > 0
    assert bool((pruned.tokens_kept <= pruned.tokens).all())
    assert bool((pruned.tokens_kept[deep & (pruned.tokens > 8)] < pruned.tokens[deep & (pruned.tokens > 8)]).all())


def test_bfloat16_agrees_with_float32(tiny_checkpoint: Path, texts: list[str]) -> None:
    float32 = open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.0, precision="float32").score(texts)
    bfloat16 = open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.0, precision="bfloat16").score(texts)
    same_label = float32.probabilities.argmax(1) == bfloat16.probabilities.argmax(1)
    assert same_label.mean() > 0.9


def test_the_predicted_depth_is_that_of_the_texts_own_tokens(
    engine: Engine, tiny_checkpoint: Path, texts: list[str]
) -> None:
    from earlybell.inference.model.checkpoint import load

    checkpoint = load(tiny_checkpoint)
    prediction = DepthPrediction.of(checkpoint.calibration.token_table, checkpoint.reader.pad_id, 0)
    predictions = engine.score(texts).predicted_depth
    assert predictions.tolist() == [float(prediction.predict(checkpoint.reader.read([text]))[0]) for text in texts]
    assert len(set(predictions.tolist())) > 50


@pytest.mark.parametrize(
    ("options", "message"),
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
def test_an_unavailable_option_is_refused_in_one_line(
    tiny_checkpoint: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(EngineError, match=message) as refused:
        open_engine(**{"checkpoint": tiny_checkpoint, **options})  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        open_engine("cpu", checkpoint=tmp_path / "none")


def test_the_strategy_predict_exits_each_text_at_its_predicted_depth(tiny_checkpoint: Path, texts: list[str]) -> None:
    by_prediction = open_engine(
        "cpu", checkpoint=tiny_checkpoint, dial=0.5, precision="float32", strategy="predict"
    ).score(texts)
    assert by_prediction.exit_depth.tolist() == np.rint(by_prediction.predicted_depth).astype(int).tolist()
    assert len(set(by_prediction.exit_depth.tolist())) > 1
    # Where the exit rule happens to exit at the same depth, the answers are the same.
    by_rule = open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.5, precision="float32").score(texts)
    same_depth = by_prediction.exit_depth == by_rule.exit_depth
    assert same_depth.any()
    assert np.allclose(by_prediction.probabilities[same_depth], by_rule.probabilities[same_depth], atol=1e-5)


def test_warming_up_changes_no_answer(engine: Engine, texts: list[str]) -> None:
    before = engine.score(texts)
    engine.warm_up()
    assert_same(before, engine.score(texts))


@given(tokens=st.integers(1, 512))
def test_a_bucket_fits_its_text_with_little_padding(tokens: int) -> None:
    assert tokens <= bucket(tokens) < tokens + max(8, 32 * (tokens > 64))


def test_strategies_have_names() -> None:
    assert {"padded", "shrink", "presort"} <= set(STRATEGIES)


def assert_same(actual: Predictions, expected: Predictions) -> None:
    assert actual.exit_depth.tolist() == expected.exit_depth.tolist()
    assert actual.tokens.tolist() == expected.tokens.tolist()
    assert actual.tokens_kept.tolist() == expected.tokens_kept.tolist()
    assert np.allclose(actual.probabilities, expected.probabilities, atol=1e-5)
    assert actual.probabilities.argmax(1).tolist() == expected.probabilities.argmax(1).tolist()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_windows_that_are_begun_together_answer_as_one_after_another(
    tiny_checkpoint: Path, texts: list[str], precision: str, threads: int
) -> None:
    engine = open_engine("cpu", checkpoint=tiny_checkpoint, precision=precision, threads=threads)
    windows = [(texts[:20], None), ([], None), (texts, 0.0), (texts[:1], 1.0), (texts * 20, None)]
    begun = [engine.begin(*window) for window in windows]
    for window, answers in reversed([*zip(windows, begun, strict=True)]):
        predictions, started, ended = answers()
        assert np.array_equal(predictions.probabilities, engine.score(*window).probabilities)
        assert started <= ended
    with pytest.raises(ValueError, match="dial"):
        engine.begin(texts, 2.0)()
