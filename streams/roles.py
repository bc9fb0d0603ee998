"""The roles of the pipeline. Each is a Faust app with its own consumer group."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """A role, by the name that the command line, the consumer groups and the health checks use."""

    SCORING = "scoring"
    STORING = "storing"
