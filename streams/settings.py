"""Every setting, once: each field is an ``EARLYBELL_*`` environment variable with its default and its reason.

Where a field has no value of its own, what ``earlybell up`` started on this machine is found through its state file,
so that every later command works without a flag or a variable.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from earlybell.deploy.local import state


class Settings(BaseSettings):
    """How Earlybell runs. ``earlybell settings`` prints them all with what they are now."""

    model_config = SettingsConfigDict(env_prefix="EARLYBELL_", extra="forbid", frozen=True, env_ignore_empty=True)

    # Where things are.
    kafka_bootstrap: str = Field(
        default_factory=lambda: state.read().get("kafka_bootstrap", "127.0.0.1:9092"),
        description="host:port[,host:port] of the Kafka brokers. Default: the stack that `earlybell up` started.",
    )
    database_url: SecretStr = Field(
        default_factory=lambda: SecretStr(
            state.read().get("database_url", "postgresql://postgres@127.0.0.1:5432/earlybell")
        ),
        description="The Postgres database, as a URL. Default: the stack that `earlybell up` started.",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to speak to the brokers."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism, where the protocol has SASL."
    )
    kafka_username: str | None = Field(None, description="SASL user.")
    kafka_password: SecretStr | None = Field(None, description="SASL password.")
    kafka_ca_file: Path | None = Field(None, description="PEM file of the authority that signed the brokers.")

    # Topics and consumer groups.
    news_topic: str = Field("news.raw", description="Where feeds publish news.")
    sentiment_topic: str = Field("news.sentiment", description="Where signals go.")
    dead_topic: str = Field("news.dead", description="Where messages go that cannot be processed.")
    partitions: int = Field(4, ge=1, description="Of the topics that we create; the most workers a role can have.")
    replication: int = Field(1, ge=1, description="Copies of each partition of the topics that we create.")
    group_prefix: str = Field("earlybell", description="Consumer groups are PREFIX-scoring and PREFIX-storing.")
    commit_interval_s: float = Field(
        1.0, gt=0, description="How often offsets are committed. A crash re-reads at most this much."
    )
    session_timeout_s: float = Field(
        10.0, gt=0, description="A worker that is silent for so long loses its partitions to the others."
    )

    # Windows.
    window_texts: int = Field(512, ge=1, description="A window closes at so many texts,")
    window_tokens: int = Field(32_768, ge=1, description="or at so many tokens (estimated from the characters),")
    window_delay_ms: float = Field(10.0, ge=0, description="or when its first text has waited so long.")
    chunk_messages: int = Field(
        256, ge=1, description="The most messages of one fetch that travel as one event through Faust."
    )
    fetched_chunks: int = Field(
        8, ge=1, description="Chunks that may wait in front of an agent before its partitions are paused."
    )

    # The model.
    checkpoint: Path | None = Field(None, description="Directory of the checkpoint. Default: the one that is shipped.")
    devices: str = Field("auto", description="auto (one worker a GPU, else the CPU), cpu, or cuda:0,cuda:1 ...")
    cpu_threads: int = Field(0, ge=0, description="Threads of a CPU worker; 0: one for each core.")
    precision: str = Field("auto", description="auto (the fastest here, measured once), float32, bfloat16 or int8.")
    dial: float | None = Field(
        None, ge=0, le=1, description="0: full depth .. 1: the fastest calibrated. Default: the checkpoint's."
    )

    # Storing.
    store_rows: int = Field(2_000, ge=1, description="Rows that are written to Postgres in one transaction,")
    store_delay_ms: float = Field(50.0, ge=0, description="or when the first of them has waited so long.")

    # Logs.
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, else one JSON object a line."
    )

    def consumer_group(self, member: str) -> str:
        """Return the consumer group of a role, or of `earlybell redrive`."""
        return f"{self.group_prefix}-{member}"

    @cached_property
    def database(self) -> str:
        """The database URL with its password: for connecting, never for logs."""
        return self.database_url.get_secret_value()
