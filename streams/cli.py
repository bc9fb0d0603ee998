"""The commands of ``earlybell``: each reads its options and calls the room that does the work.

Thin, and quick to import: rooms are imported inside the commands, so that ``earlybell --help`` loads neither torch
nor a Kafka client. An expected failure becomes one line on the standard error and exit code 2, here and nowhere else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from earlybell.errors import UserError
from earlybell.inference.training import commands as training
from earlybell.storage.exceptions import StorageUnavailable
from earlybell.streams.exit_codes import INTERRUPTED, USER_ERROR
from earlybell.streams.roles import Role

if TYPE_CHECKING:
    from earlybell.streams.settings import Settings

app = typer.Typer(
    help="Sentiment signals from financial news: Kafka in, Kafka and Postgres out.",
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
db = typer.Typer(help="The Postgres database: its schema and its address.", no_args_is_help=False)
app.add_typer(db, name="db")
# train, distil, calibrate, evaluate: their options are declared there; torch is imported when one of them runs.
app.add_typer(training.app)


class FileFormat(StrEnum):
    """What a file that is replayed may be."""

    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"


class TextFormat(StrEnum):
    """What is scored may be."""

    AUTO = "auto"
    TEXT = "text"
    JSONL = "jsonl"


@app.command()
def up() -> None:
    """Start a Kafka and a Postgres on this machine; every later command finds them."""
    from earlybell.deploy.local import stack
    from earlybell.streams.logs import masked

    _quiet()
    running = stack.up(progress=_tell)
    print(f"Kafka     {running.kafka_bootstrap}\nPostgres  {masked(running.database_url)}")
    print("Next: `earlybell db upgrade`, then `earlybell run`; `earlybell down` stops it.")


@app.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Delete its data and logs too.")] = False,
) -> None:
    """Stop what `up` started; its data stays, unless told otherwise."""
    from earlybell.deploy.local import stack

    _quiet()
    stopped = stack.down(purge=purge)
    print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Say what runs, and where."""
    from earlybell.deploy.local import stack

    _quiet()
    found = stack.status()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for name in ("kafka", "postgres"):
            server = found[name]
            state = "running" if server["healthy"] else "does not answer" if server["running"] else "not running"
            print(f"{name:<9} {state:<16} {server['address'] or ''}")
        if not found["running"]:
            print("`earlybell up` starts what does not run")


@db.command()
def upgrade() -> None:
    """Bring the database to the schema of this version."""
    from earlybell.storage import migrations

    settings = _settings()
    print(f"schema {migrations.upgrade(settings.database)}")


@db.command()
def url() -> None:
    """Print the database's URL, password included: psql "$(earlybell db url)"."""
    print(_settings().database)


@db.command()
def current() -> None:
    """Print the schema's revision."""
    from earlybell.storage import migrations

    print(migrations.current(_settings().database) or "none: run `earlybell db upgrade`")


@app.command()
def settings() -> None:
    """Print every setting: its variable, its value (secrets masked), what it is for."""
    from earlybell.streams.commands import settings_listing

    settings_listing.show(_settings())


@app.command()
def replay(
    file: Annotated[str, typer.Argument(help="JSONL, CSV or TSV, also .gz, .xz, .bz2; - is the standard input.")],
    *,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="Which column is a field; its number in a headless file."),
    ] = None,
    file_format: Annotated[FileFormat | None, typer.Option("--format", help="Default: by the file's name.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Of times without an offset, such as America/New_York.")] = None,
    speed: Annotated[str, typer.Option(help="A multiple of real time, by published_at, or max.")] = "max",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows.")] = None,
    topic: Annotated[str | None, typer.Option(help="Default: the news topic.")] = None,
    raw: Annotated[
        bool, typer.Option(help="Send each line of a JSONL file untouched; an empty one as a null.")
    ] = False,
) -> None:
    """Publish a file's rows as news; rows that are no news are reported and left out."""
    from earlybell.streams.commands import replay

    _quiet()
    replay.replay_file(
        _settings(),
        file,
        pairs=mapping or [],
        form=file_format.value if file_format else None,
        timezone=timezone,
        speed=speed,
        limit=limit,
        topic=topic,
        raw=raw,
    )


@app.command()
def watch(
    from_start: Annotated[bool, typer.Option(help="Every signal that the topic still has, then the new ones.")] = False,
    symbol: Annotated[str | None, typer.Option(help="Only signals about this symbol.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
) -> None:
    """Print signals as they come; Ctrl-C ends it."""
    from earlybell.streams.commands import watch

    _quiet()
    watch.watch(_settings(), from_start=from_start, symbol=symbol, as_json=as_json)


@app.command()
def score(
    file: Annotated[str, typer.Argument(help="One text a line, or news items as JSONL; - is the standard input.")],
    text_format: Annotated[TextFormat, typer.Option("--format", help="auto: JSONL where a line begins with {.")] = (
        TextFormat.AUTO
    ),
) -> None:
    """Score texts without Kafka or Postgres: JSON lines, in the order in which the texts came.

    A line that cannot be scored is reported on the standard error with its number, and the rest goes on.
    """
    from earlybell.streams.commands import score

    _quiet()
    score.score_file(_settings(), file, text_format.value)


@app.command()
def run(
    role: Annotated[Role | None, typer.Option(help="Only this role, in this process. Default: both.")] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Run the pipeline: role scoring (news to signals) and role storing (both to Postgres)."""
    from earlybell.streams import logs, supervisor

    current_settings = _settings()
    logs.configure(current_settings.log_level, current_settings.log_format)
    if with_parent:
        supervisor.stop_with_parent()
    if role is None:
        import asyncio

        code = asyncio.run(supervisor.supervise())
    else:
        from earlybell.streams import app as pipeline

        code = pipeline.run(role, current_settings)
    raise typer.Exit(code)


@app.command()
def redrive(limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None) -> None:
    """Send dead letters to the topic they came from, once each, after what was wrong is mended."""
    from earlybell.streams import dead_letters

    _quiet()
    print(f"{dead_letters.redrive(_settings(), limit=limit)} dead letters sent again")


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long the sample feed takes to play.")] = 12.0,
) -> None:
    """Show the whole of it: a private Kafka and Postgres, both roles, a sample feed, what came of it."""
    from earlybell.streams.demo import session as demonstration

    raise typer.Exit(demonstration.run(seconds))


def _settings() -> Settings:
    from earlybell.streams.commands import settings_listing

    return settings_listing.load()


def _quiet() -> None:
    from earlybell.streams import logs

    logs.silence()


#: The storage room does not know where its URL comes from; the command line does.
_POSTGRES_ADVICE = "is Postgres running? `earlybell up` starts one, EARLYBELL_DATABASE_URL names another"


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _one_line(error: UserError | str) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _report(line: str) -> None:
    print(f"earlybell: {line}", file=sys.stderr)


def execute(arguments: Sequence[str]) -> int:
    """Run one command; gives its exit code. Expected failures are one line on the standard error."""
    try:
        code = app(args=list(arguments) or ["--help"], prog_name="earlybell", standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        return INTERRUPTED
    except typer.TyperException as error:
        _report(f"{_one_line(error.format_message()).rstrip('.')} (see `earlybell --help`)")
        return USER_ERROR
    except StorageUnavailable as error:
        _report(f"{_one_line(error)}; {_POSTGRES_ADVICE}")
        return USER_ERROR
    except UserError as error:
        _report(_one_line(error))
        return USER_ERROR
    except BrokenPipeError:
        # Who read us has enough (`earlybell watch | head`): nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def main() -> None:
    """The entry point."""
    sys.exit(execute(sys.argv[1:]))


if __name__ == "__main__":
    main()
