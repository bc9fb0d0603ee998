"""The labels of a signal and the meaning of each of its fields, stated once.

The JSON Schema of the sentiment topic and the comments of the table ``signals`` both take it from here, so a researcher
and a strategy read the same sentence. The comments are part of the database's schema: changing one takes a migration.
"""

from __future__ import annotations

from collections.abc import Mapping

#: What a signal's label can be. A model that answers anything else is not served.
LABELS = ("negative", "neutral", "positive")
#: The labels that make up the score.
NEGATIVE, POSITIVE = "negative", "positive"

#: Field -> what it means, in the order of the message.
SIGNAL_FIELDS: Mapping[str, str] = {
    "signal_id": (
        "Hash of (news_id, revision, text_hash, model_revision, policy): the same work always has the same id."
    ),
    "news_id": "The story; joins news on (news_id, revision).",
    "revision": "The revision of the story that was scored.",
    "symbols": "Instruments that the feed says the story is about.",
    "source": "Who published the story.",
    "text_hash": "SHA-256 of the text that was scored, 32 hex digits; null for signals of earlier versions.",
    "label": "The class with the largest probability.",
    "score": "P(positive) - P(negative), -1 .. 1.",
    "probabilities": "Probability of each class, after the exit's temperature.",
    "confidence": "The largest of the probabilities.",
    "published_at": "When the publisher says the story came out; not to be trusted.",
    "ingested_at": "When the broker took the story in (LogAppendTime).",
    "scored_at": "When the model had answered, by the worker's clock.",
    "queue_ms": "Milliseconds from the fetch of the story to the start of inference.",
    "inference_ms": "Milliseconds of inference of the window it was part of.",
    "model": "Name of the checkpoint.",
    "model_revision": "Hash over weights, tokenizer and calibration.",
    "policy": "How the model traded depth for speed: dial=0.50, or adaptive.",
    "dial": "0: full depth .. 1: the fastest calibrated.",
    "precision": "Arithmetic of the model: float32, bfloat16 ...",
    "exit_depth": "The depth that answered; 0 is before the first layer.",
    "predicted_depth": "The depth that was expected, where the model predicts it.",
    "depth_limit": "The deepest it could have gone.",
    "tokens": "Tokens that the model read.",
    "tokens_kept": "Tokens alive in the last layer that ran.",
    "topic": "Origin of the story: the Kafka topic.",
    "partition": "Origin of the story: the partition of the topic.",
    "offset": "Origin of the story: the offset in the partition.",
}
