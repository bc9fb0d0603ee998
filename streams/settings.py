"""Every setting, defined once: each field is an ``EARLYBELL_*`` environment variable with a default and a description.

The servers' addresses default to the stack that ``earlybell up`` started on this machine, which is found through its
state file; so no later command needs a flag or a variable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from earlybell import masking
from earlybell.database_url import DatabaseUrl, InvalidDatabaseUrl
from earlybell.deploy.local import state
from earlybell.streams.exceptions import CommandError
from earlybell.streams.setting_errors import plain

ENV_PREFIX = "EARLYBELL_"


class Settings(BaseSettings):
    """How Earlybell runs. ``earlybell settings`` prints every setting with its current value."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    # Servers
    kafka_bootstrap: str = Field(
        default_factory=lambda: state.read().get("kafka_bootstrap", "127.0.0.1:9092"),
        description="Connect to the Kafka brokers at host:port[,host:port]. The default is the stack that "
        "`earlybell up` started.",
    )
    database_url: SecretStr = Field(
        default_factory=lambda: SecretStr(
            state.read().get("database_url", "postgresql://postgres@127.0.0.1:5432/earlybell")
        ),
        description="Connect to the Postgres database at this URL. The default is the stack that `earlybell up` "
        "started.",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Talk to the brokers over this protocol."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="Authenticate with this mechanism if the protocol uses SASL."
    )
    kafka_username: str | None = Field(None, description="Authenticate as this user if the protocol uses SASL.")
    kafka_password: SecretStr | None = Field(
        None, description="Authenticate with this password if the protocol uses SASL."
    )
    kafka_ca_file: FilePath | None = Field(
        None, description="Trust the certificate authority in this PEM file to sign the brokers' certificates."
    )
    kafka_cert_file: FilePath | None = Field(
        None, description="Present this client certificate (PEM) to brokers that ask for one: mutual TLS."
    )
    kafka_key_file: FilePath | None = Field(
        None, description="Take the client certificate's private key from this PEM file. The default is the same file."
    )
    kafka_key_password: SecretStr | None = Field(
        None, description="Decrypt the client certificate's private key with this password."
    )
    kafka_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Give up a request that the brokers have not answered after this long, reconnect and try again.",
    )

    # Topics and consumer groups
    news_topic: str = Field("news.raw", description="Read news from this topic.")
    sentiment_topic: str = Field("news.sentiment", description="Publish signals on this topic.")
    dead_topic: str = Field("news.dead", description="Send messages that cannot be processed to this topic.")
    partitions: int = Field(
        4, ge=1, description="Create topics with this many partitions, which is also the most workers a role can use."
    )
    replication: int | None = Field(
        None,
        ge=1,
        description="Create topics with this many copies of each partition. The default is 3, or one on each broker if "
        "there are fewer.",
    )
    min_insync_replicas: int | None = Field(
        None,
        ge=1,
        description="Create topics on which a message counts as acknowledged only when this many brokers have it. The "
        "default is 2, or 1 without further copies.",
    )
    news_retention_days: float = Field(
        7.0, ge=0, description="Create the news topic to keep messages for this many days; 0 means forever."
    )
    sentiment_retention_days: float = Field(
        30.0, ge=0, description="Create the sentiment topic to keep signals for this many days; 0 means forever."
    )
    dead_retention_days: float = Field(
        90.0, ge=0, description="Create the dead-letter topic to keep letters for this many days; 0 means forever."
    )
    group_prefix: str = Field(
        "earlybell", description="Name the consumer groups PREFIX-scoring, PREFIX-storing and PREFIX-redrive."
    )
    commit_interval_s: float = Field(
        1.0,
        gt=0,
        description="Commit offsets at this interval. A crash re-reads at most what came in since.",
    )
    session_timeout_s: float = Field(
        10.0, gt=0, description="Give a worker's partitions to the others when it has been silent for this long."
    )

    # Lanes
    backfill_topic: str | None = Field(
        None,
        description="Read news from this topic as well, and score it behind that of the news topic. Unset: there is no "
        "second lane.",
    )
    backfill_share: float = Field(
        0.1,
        ge=0,
        le=0.9,
        description="Give the backfill topic this share of the scored texts while live news waits; it has the rest of "
        "the time as well when none does.",
    )
    expire_after_s: float = Field(
        0.0,
        ge=0,
        description="Do not score live news that was on its topic for longer than this when it was fetched; "
        "0 means that news never expires.",
    )
    expired_news: Literal["skip", "defer"] = Field(
        "skip", description="Send expired news to the dead letters (skip) or to the backfill topic (defer)."
    )

    # Windows
    window_texts: int = Field(512, ge=1, description="Close a window when it holds this many texts.")
    window_tokens: int = Field(
        32_768, ge=1, description="Close a window when it holds this many tokens, estimated from the characters."
    )
    window_delay_ms: float = Field(
        0.0,
        ge=0,
        description="Close a window when its first text has waited this long; 0: when there is room for it.",
    )
    fetch_wait_ms: int = Field(
        15,
        ge=0,
        le=1_000,
        description="While news arrives, let the broker collect it for this long before it answers a fetch by the "
        "scoring role; 0 means that it answers at the first message.",
    )
    chunk_messages: int = Field(
        256, ge=1, description="Pass at most this many messages of one fetch through Faust as one event."
    )
    fetched_chunks: int = Field(
        8, ge=1, description="Pause an agent's partitions when this many chunks are waiting for it."
    )
    fetched_bytes: int = Field(
        64 * 1_048_576,
        ge=1,
        description="Fetch nothing more of a topic while messages of this many bytes of it are being worked on, "
        "decompressed.",
    )

    # Model
    checkpoint: Path | None = Field(
        None, description="Load the model from this directory. The default is the checkpoint that ships with Earlybell."
    )
    devices: str = Field(
        "auto",
        description="Run one worker on each of these devices: auto (every GPU, or else the CPU), cpu, or a list such "
        "as cuda:0,cuda:1.",
    )
    cpu_threads: int = Field(
        0,
        ge=0,
        description="Give a CPU worker this many threads; 0 means one per core "
        "that it may use, which a container's quota limits.",
    )
    precision: str = Field(
        "auto",
        description="Compute in this precision: auto (int8 on a CPU, bfloat16 on a GPU), int8, float32 or bfloat16.",
    )
    exact: bool = Field(
        False,
        description="Compute a text to the same bits whatever else is in its window. int8 always does; float32 and "
        "bfloat16 then take longer.",
    )
    mixed_arithmetic: bool = Field(
        False,
        description="Let the workers of one role answer in different arithmetics, such as int8 on a CPU and bfloat16 "
        "on a GPU. The id and the answer of a story then depend on which worker scores it.",
    )
    dial: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Trade depth for speed, from 0 (full depth) to 1 (the fastest calibrated). The default is the "
        "checkpoint's own.",
    )

    latency_objective_ms: float = Field(
        0.0,
        ge=0,
        description="Hold this latency, from the broker to the answer, by moving the dial up along the model's "
        "calibrated curve while news queues up. Signals then have the policy `adaptive` and each its own dial; 0 means "
        "that the dial stays where it is, so that every answer can be reproduced.",
    )
    most_accuracy_lost: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Let the adaptive dial lose at most this much accuracy against full depth, 0.01 being one point.",
    )

    # Storing
    store_rows: int = Field(2_000, ge=1, description="Write to Postgres when this many rows are waiting.")
    store_delay_ms: float = Field(
        100.0,
        ge=0,
        le=1_000,
        description="Write to Postgres when the first waiting row has waited this long; the broker collects messages "
        "for the same time before it answers a fetch by the storing role.",
    )
    store_timeout_s: float = Field(
        60.0, gt=0, description="Give up a statement of the storing role that takes Postgres longer, and try again."
    )
    store_niceness: int = Field(
        5,
        ge=0,
        le=19,
        description="Lower the storing role's CPU priority by this much, so that on a busy machine signals come before "
        "rows; 0 means the priority of the other processes.",
    )

    # Probes
    probe_host: str = Field(
        "127.0.0.1", description="Serve /metrics, /livez, /readyz and /info at this address of each role's machine."
    )
    scoring_port: int = Field(
        9464,
        ge=0,
        le=65535,
        description="Serve the scoring role's probes at this port; 0, or a port that is taken, means a free one.",
    )
    storing_port: int = Field(
        9465,
        ge=0,
        le=65535,
        description="Serve the storing role's probes at this port; 0, or a port that is taken, means a free one.",
    )
    stuck_after_s: float = Field(
        300.0, gt=0, description="Report a role as not alive when a window has been in work for this long."
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Log events of this level and above."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="Write logs in this format. auto is console on a terminal, else one JSON object per line.",
    )

    @field_validator("kafka_bootstrap")
    @classmethod
    def _no_url(cls, brokers: str) -> str:
        if "/" in brokers:
            raise ValueError("it must be host:port[,host:port], without a scheme or a path")
        return brokers

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL") and not (self.kafka_username and self.kafka_password):
            raise ValueError(
                f"EARLYBELL_KAFKA_SECURITY_PROTOCOL is {self.kafka_security_protocol}, which needs "
                "EARLYBELL_KAFKA_USERNAME and EARLYBELL_KAFKA_PASSWORD"
            )
        return self

    @model_validator(mode="after")
    def _enough_replicas(self) -> Self:
        if self.replication and self.min_insync_replicas and self.min_insync_replicas > self.replication:
            raise ValueError(
                f"EARLYBELL_MIN_INSYNC_REPLICAS is {self.min_insync_replicas} but EARLYBELL_REPLICATION "
                f"{self.replication}; no message would ever be acknowledged"
            )
        if self.backfill_topic in (self.news_topic, self.sentiment_topic, self.dead_topic):
            raise ValueError(f"EARLYBELL_BACKFILL_TOPIC is {self.backfill_topic}, which has another purpose")
        if self.expired_news == "defer" and self.backfill_topic is None:
            raise ValueError("EARLYBELL_EXPIRED_NEWS is defer, which needs an EARLYBELL_BACKFILL_TOPIC")
        return self

    @property
    def news_topics(self) -> tuple[str, ...]:
        """The topics of news: the live one, and that of backfill if there is one."""
        return (self.news_topic, *([self.backfill_topic] if self.backfill_topic else []))

    def probe_port(self, role: str) -> int:
        """Return the port of a role's probes."""
        port: int = getattr(self, f"{role}_port")
        return port

    def consumer_group(self, member: str) -> str:
        """Return the consumer group of a role, or of `earlybell redrive`."""
        return f"{self.group_prefix}-{member}"

    def secrets(self) -> Iterator[str]:
        """Yield every secret, in each form in which a library may quote it."""
        for value in (getattr(self, name) for name in type(self).model_fields):
            if isinstance(value, SecretStr):
                yield value.get_secret_value()
        with contextlib.suppress(InvalidDatabaseUrl):
            yield from DatabaseUrl.parse(self.database).secrets

    @cached_property
    def database(self) -> str:
        """The database URL with its password: for connecting, never for logs."""
        return self.database_url.get_secret_value()


def load_settings() -> Settings:
    """Read the settings of this process from its environment, and mask their secrets in all that it prints.

    Raises
    ------
    CommandError
        A variable's value is invalid.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:  # settings that do not go together
            raise CommandError(f"the settings are invalid: {first['msg'].removeprefix('Value error, ')}") from error
        name = "_".join(str(part) for part in first["loc"])
        secret = name == "database_url" or masking.names_secret(name)
        shown = masking.MASK if secret else masking.masked(repr(first["input"]))
        raise CommandError(f"{ENV_PREFIX}{name.upper()}={shown} is invalid: {plain(first)}") from error
    for value in settings.secrets():
        masking.remember(value)
    return settings
