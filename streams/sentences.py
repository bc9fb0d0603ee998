"""The events that a person follows on a terminal, as sentences.

Logs for machines keep the names and the fields of the events; on a terminal these read better. An event that is not
here is printed with its fields.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any

Fields = Mapping[str, Any]


def ready(fields: Fields) -> str:
    """Return what a role that is ready does, and with which model."""
    topics = ", ".join(
        f"{topic} ({partitions} partition{'' if partitions == 1 else 's'})"
        for topic, partitions in fields["reads"].items()
    )
    line = f"ready: {topics or 'no partition yet'} → {_place(fields['writes'])}"
    if fields.get("model"):
        line += f"; {model(fields['model'])}"
    return line


def model(fields: Fields) -> str:
    """Return which model answers, and how."""
    precision, processor = fields["precision"], fields["processor"]
    return f"{fields['name']} {fields['revision'][:8]}, {precision} on {processor}, {fields['policy']}"


def _progress(fields: Fields) -> str:
    counts = {name: count for name, count in fields.items() if isinstance(count, int) and count}
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()) or "nothing yet"


def _place(address: str) -> str:
    """Return a database's address without its scheme and user."""
    return re.sub(r"^postgresql://([^@/]*@)?", "", address)


#: Event → the sentence for its fields; None: nothing that a person needs to see.
SENTENCES: Mapping[str, Callable[[Fields], str] | None] = {
    "preflight_started": lambda fields: (
        f"looking for Kafka at {fields['kafka']}, Postgres at {_place(fields['postgres'])}"
    ),
    "role_started": lambda _: "starting",
    "model_load_started": lambda _: "loading the model",
    "worker_started": None,
    "pool_started": None,
    "model_loaded": lambda fields: f"model loaded: {fields['model']} on {fields['kernels'] or fields['device']}",
    "database_check_started": None,
    "group_join_started": lambda fields: f"joining the consumer group {fields['group']}",
    "partitions_assigned": None,
    "probes_served": lambda fields: f"metrics and probes at {fields['url']}",
    "role_ready": ready,
    "role_unready": lambda fields: f"not ready: {'; '.join(fields['problems'])}",
    "progress_reported": _progress,
    "role_stopped": None,
    "role_exited": lambda fields: "stopped" if fields["code"] == 0 else f"stopped with exit code {fields['code']}",
    "role_died": lambda fields: (
        f"died ({fields['cause']}) after {fields['lived_s']:.1f} s; starts again in {fields['restart_in_s']:.1f} s"
    ),
    "probe_port_taken": lambda fields: f"port {fields['port']} is taken: the probes get a free one",
}


def sentence(event: str, fields: Fields) -> str | None:
    """Return an event as a person reads it, or None if it is left out."""
    if event in SENTENCES:
        write = SENTENCES[event]
        # An event without the fields of its sentence is printed like an unknown one: no log line may raise.
        with contextlib.suppress(KeyError):
            return write(fields) if write is not None else None
    shown = " ".join(f"{name}={value}" for name, value in fields.items())
    return f"{event.replace('_', ' ')}  {shown}".rstrip() if shown else event
