"""Logs: our events and our clients' lines have one form, and none contains a secret."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from earlybell.streams.logs import masked
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
SCRIPT = """
import logging, structlog, warnings
from earlybell.streams import logs
logs.configure("{level}", "{form}")
log = structlog.get_logger("streams.test")
log.info("connected", url="postgresql://me:hunter2@db:5432/x", kafka_password="hunter2", texts=3)
log.debug("of no interest")
logging.getLogger("aiokafka").info("chatter")
logging.getLogger("aiokafka").warning("cannot reach %s", "kafka://u:hunter2@host")
warnings.warn("odd")
try:
    raise ValueError("postgresql://me:hunter2@db/x is wrong")
except ValueError:
    log.exception("failed")
"""


def written(level: str, form: str) -> str:
    script = SCRIPT.format(level=level, form=form)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True, cwd=ROOT
    )
    assert done.stdout == "", "logs go to the standard error"
    return done.stderr


def test_json_lines() -> None:
    events = [json.loads(line) for line in written("info", "auto").splitlines()]
    assert [event["event"].split("\n")[0][:14] for event in events][:2] == ["connected", "cannot reach k"]
    connected = events[0]
    assert (connected["url"], connected["kafka_password"]) == ("postgresql://me:***@db:5432/x", "***")
    assert (connected["texts"], connected["level"], connected["logger"]) == (3, "info", "streams.test")
    assert connected["timestamp"].endswith("Z")
    assert events[1]["logger"] == "aiokafka"
    assert "ValueError" in events[-1]["exception"]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("level", ["debug", "info"])
def test_no_secret_in_any_form(form: str, level: str) -> None:
    output = written(level, form)
    assert "hunter2" not in output
    assert output.count("***") >= 4
    assert ("of no interest" in output) == ("chatter" in output) == (level == "debug")


def test_masking_leaves_the_rest() -> None:
    assert masked("https://example.com/a:b@c") == "https://example.com/a:b@c"
    assert masked({"tokens": 5, "password": "x", "inner": {"secret": "y", "at": "a://b:c@d"}}) == {
        "tokens": 5,
        "password": "***",
        "inner": {"secret": "***", "at": "a://b:***@d"},
    }


SENTENCES = """
import logging, structlog
from earlybell.streams import logs
logs.configure("info", "console")
logs.name_role("scoring")
log = structlog.get_logger("earlybell.streams.probes")
model = dict(name="elbert-small", revision="68bce8a0ff", precision="int8", processor="avx2", policy="dial=0.50")
log.info("role_ready", reads={"news.raw": 4}, writes="news.sentiment", model=model)
log.info("pool_started", devices=["cpu"])
log.info("progress_reported", app="earlybell-scoring", signals=1200, dead_letters=0)
log.warning("role_died", code=-9, cause="killed by SIGKILL", lived_s=3.21, restart_in_s=0.5)
log.info("something_new", texts=3)
logging.getLogger("earlybell.streams.transport").info("Starting...")
coordinator = logging.getLogger("aiokafka.consumer.group_coordinator")
coordinator.error("Group Coordinator Request failed: %s", "GroupCoordinatorNotAvailableError")
coordinator.error("Heartbeat failed")
logging.getLogger("mode.timers").warning("Timer commit is overlapping (interval=0.2 runtime=0.23)")
"""


def test_a_person_reads_sentences_without_noise() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SENTENCES], capture_output=True, text=True, timeout=PATIENCE_S, check=True, cwd=ROOT
    )
    assert [line[10:] for line in done.stderr.splitlines()] == [
        "scoring  ready: news.raw (4 partitions) → news.sentiment; elbert-small 68bce8a0, int8 on avx2, dial=0.50",
        "scoring  1,200 signals",
        "scoring  warning: died (killed by SIGKILL) after 3.2 s; starts again in 0.5 s",
        "scoring  something new  texts=3",
        "scoring  error: Heartbeat failed",
    ]


REPETITIONS = """
import logging, structlog
from earlybell.streams import logs
logs.configure("{level}", "json")
client, log = logging.getLogger("aiokafka"), structlog.get_logger("earlybell.streams.test")
for attempt in range(50):
    client.error("Unable connect to node with id %s: [Errno 111]", attempt)
    client.error("Failed fetch messages from 1")
    log.warning("window_failed", attempt=attempt)
logs.REPEATED_AFTER_S = 0.0
client.error("Unable connect to node with id 1: [Errno 111]")
client.error("Unable connect to node with id 1: [Errno 111]")
"""


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_a_client_repeats_is_counted(level: str) -> None:
    script = REPETITIONS.format(level=level)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True, cwd=ROOT
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    unable = [event.get("repeated") for event in events if event["event"].startswith("Unable")]
    assert sum(event["event"] == "window_failed" for event in events) == 50, "our own events are all written"
    if level == "debug":
        assert unable == [None] * 52
    else:
        assert unable == [None, 49, None]
        assert sum(event["event"].startswith("Failed fetch") for event in events) == 1
