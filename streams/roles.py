"""The roles of the pipeline. Each is one Faust app with a consumer group of its own, so they scale and fail apart."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """A role, by the name that the command line, the consumer groups and the health checks use."""

    SCORING = "scoring"
    STORING = "storing"
