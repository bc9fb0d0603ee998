"""`earlybell redrive` on the real broker: every letter is sent back once, and only to topics of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from kafka import KafkaConsumer

from earlybell.streams import dead_letters
from earlybell.streams.brokers import open_producer
from earlybell.streams.commands import redrive as redrive_module
from earlybell.streams.commands.redrive import redrive
from earlybell.streams.settings import Settings
from tests.integration.whole_pipeline import messages
from tests.own_topics import own_topics


@pytest.fixture
def settings(kafka_bootstrap: str) -> Settings:
    return own_topics(kafka_bootstrap, partitions=1)


def bury(settings: Settings, values: Sequence[bytes], origin: str | None = None) -> None:
    """Write dead letters whose header claims that they come from `origin`, by default the news topic."""
    producer = open_producer(settings)
    topic = (origin or settings.news_topic).encode()
    for value in values:
        producer.send(settings.dead_topic, value=value, headers=[(dead_letters.TOPIC[0], topic)])
    producer.close()


def values(settings: Settings, topic: str) -> list[bytes]:
    return [message.value for message in messages(settings, topic)]


def test_letters_that_arrive_during_a_redrive_are_left_for_the_next_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(KafkaConsumer):  # type: ignore[misc]
        def end_offsets(self, partitions: Any) -> Any:
            ends = super().end_offsets(partitions)
            bury(settings, [b"late-0", b"late-1"])
            return ends

    bury(settings, [b"early-0", b"early-1"])
    monkeypatch.setattr(redrive_module, "KafkaConsumer", Interrupted)
    assert redrive(settings) == 2
    monkeypatch.undo()
    assert redrive(settings) == 2
    assert redrive(settings) == 0
    assert values(settings, settings.news_topic) == [b"early-0", b"early-1", b"late-0", b"late-1"]


def test_a_letter_goes_back_to_topics_of_the_pipeline_only(settings: Settings) -> None:
    """Whoever may write to the dead-letter topic must not be able to write to any other topic through it."""
    foreign = own_topics(settings.kafka_bootstrap, partitions=1).news_topic
    bury(settings, [b"news"])
    bury(settings, [b"signal"], settings.sentiment_topic)
    bury(settings, [b"elsewhere"], foreign)
    bury(settings, [b"round and round"], settings.dead_topic)
    bury(settings, [b"not a name"], "\N{BELL}")
    bury(settings, [b"more news"])
    assert redrive(settings) == 3
    assert values(settings, settings.news_topic) == [b"news", b"more news"]
    assert values(settings, settings.sentiment_topic) == [b"signal"]
    assert values(settings, foreign) == []
    assert redrive(settings) == 0
