"""Settings for tests of the stream: no database."""

from __future__ import annotations

import pytest

from earlybell.streams.settings import Settings
from tests.own_topics import own_topics


@pytest.fixture
def settings(kafka_bootstrap: str) -> Settings:
    """Topics that exist and are empty, on the real broker."""
    return own_topics(kafka_bootstrap)
