"""A role is healthy while the broker counts it among the members of its consumer group."""

from __future__ import annotations

from contextlib import closing

from kafka import KafkaConsumer

from earlybell.streams import health
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings


def test_a_member_of_the_consumer_group_is_healthy(kafka_bootstrap: str, topic_prefix: str) -> None:
    settings = Settings(kafka_bootstrap=kafka_bootstrap, group_prefix=topic_prefix)
    assert not health.working(settings, Role.SCORING)
    group = settings.consumer_group(Role.SCORING)
    with closing(KafkaConsumer(f"{topic_prefix}news", bootstrap_servers=kafka_bootstrap, group_id=group)) as consumer:
        while not consumer.assignment():
            consumer.poll(200)
        assert health.working(settings, Role.SCORING)
        assert health.working(settings, Role.SCORING, {"127.0.0.1"})
        assert not health.working(settings, Role.SCORING, {"192.0.2.1"})
        assert not health.working(settings, Role.STORING)
    assert not health.working(settings, Role.SCORING)


def test_without_a_broker_a_role_is_not_healthy() -> None:
    assert not health.working(Settings(kafka_bootstrap="127.0.0.1:1"), Role.SCORING)
