"""Settings with topics and consumer groups for one test, on the real broker."""

from __future__ import annotations

import uuid
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from earlybell.streams.brokers import client_options
from earlybell.streams.settings import Settings
from earlybell.streams.topics import create_topics


def own_topics(kafka_bootstrap: str, **more: Any) -> Settings:
    """Create topics that nothing else uses, and return settings with short intervals, so that tests do not wait."""
    prefix = f"t{uuid.uuid4().hex[:10]}"
    settings = Settings(
        kafka_bootstrap=kafka_bootstrap,
        news_topic=f"{prefix}.news",
        sentiment_topic=f"{prefix}.sentiment",
        dead_topic=f"{prefix}.dead",
        group_prefix=prefix,
        **{"commit_interval_s": 0.2, "session_timeout_s": 6.0, "scoring_port": 0, "storing_port": 0, **more},
    )
    create_topics(settings)
    return settings


def configure(settings: Settings, topic: str, **config: str) -> None:
    """Set a topic's configuration; an underscore stands for a point."""
    changes = {name.replace("_", "."): value for name, value in config.items()}
    admin = KafkaAdminClient(**client_options(settings))
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, changes)])
    admin.close()


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the settings as EARLYBELL_* variables, for a child process."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    values["database_url"] = settings.database
    return {
        f"EARLYBELL_{name.upper()}": str(value)
        for name, value in values.items()
        if value is not None and "password" not in name
    }
