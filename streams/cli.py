"""The command line: each command declares its options and calls the module that does the work.

It starts quickly: modules are imported inside the commands, so that ``earlybell --help`` loads neither torch nor a
Kafka client nor SQLAlchemy. Only here does a `UserError` become one line on the standard error and exit code 2.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earlybell.errors import UserError
from earlybell.inference.training import commands as training
from earlybell.masking import masked
from earlybell.storage.exceptions import StorageUnavailable
from earlybell.streams.commands.formats import NewsFormat, TextFormat
from earlybell.streams.exit_codes import INTERRUPTED, USER_ERROR
from earlybell.streams.roles import Role

if TYPE_CHECKING:
    from earlybell.streams.settings import Settings

#: The panels of ``earlybell --help``, in this order.
DAILY, STACK, MODEL = "Every day", "Stack and set-up", "Model"
#: The storage room does not know where its URL comes from; the command line does.
POSTGRES_ADVICE = "is Postgres running? `earlybell up` starts one, EARLYBELL_DATABASE_URL names another"

#: The argument parser's words for a wrong value, and plainer ones.
_PLAIN_WORDS = (
    (r"Input should be a valid integer.*", "it must be a whole number"),
    (r"Input should be a valid number.*", "it must be a number"),
    (r"Input should be greater than or equal to (\S+)", r"it must be at least \1"),
    (r"Value error, ", ""),
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
db = typer.Typer(help="Create or upgrade the Postgres schema, or print the database's URL.", no_args_is_help=False)
app.add_typer(db, name="db", rich_help_panel=STACK)
# The model commands declare their options in their own module, which imports torch only when one of them runs.
for command in training.app.registered_commands:
    command.rich_help_panel = MODEL
app.add_typer(training.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"earlybell {version('earlybell')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn financial news into sentiment signals: Kafka in, Kafka and Postgres out."""


@app.command(rich_help_panel=STACK)
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="Play the sample feed in this many seconds.")] = 12.0,
    picture: Annotated[Path | None, typer.Option(help="Draw what it showed in this SVG file.")] = None,
) -> None:
    """Run everything once: a private Kafka and Postgres, both roles, and a sample feed; then query the results."""
    from earlybell.streams.demo import session

    raise typer.Exit(session.run(seconds, picture))


@app.command(rich_help_panel=DAILY)
def score(
    file: Annotated[str, typer.Argument(help="A file of one text per line, or of news items as JSONL; - for stdin.")],
    text_format: Annotated[
        TextFormat,
        typer.Option("--format", help="Read the lines as this; auto takes a leading { for JSONL."),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, as off a terminal.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
) -> None:
    """Score texts without Kafka or Postgres, in the order of the texts: a table on a terminal, else JSON lines.

    A line that cannot be scored is reported on the standard error with its number; the others are still scored.
    """
    from earlybell.streams.commands import score

    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    _quiet()
    score.score_file(_settings(), file, text_format, "json" if as_json else "csv" if as_csv else None)


@app.command(rich_help_panel=STACK)
def up() -> None:
    """Start a Kafka and a Postgres on this machine, where the other commands find them."""
    from earlybell.streams.commands import servers

    _quiet()
    servers.up()


@app.command(rich_help_panel=STACK)
def down(purge: Annotated[bool, typer.Option("--purge", help="Delete their data and logs too.")] = False) -> None:
    """Stop the servers that `up` started. Their data stays unless --purge is given."""
    from earlybell.streams.commands import servers

    _quiet()
    servers.down(purge=purge)


@app.command(rich_help_panel=DAILY)
def status(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print which servers and roles are running, where, and whether they are well.

    Exit with 0 if all are well, 1 if one that runs is not or a role keeps dying, 3 if a role does not run.
    """
    from earlybell.streams.commands import status

    _quiet()
    raise typer.Exit(status.status(_settings(), as_json=as_json))


@app.command(rich_help_panel=DAILY)
def run(
    role: Annotated[Role | None, typer.Option(help="Run only this role, in this process. The default is both.")] = None,
    member: Annotated[
        str | None, typer.Option(hidden=True, help="A supervisor's child: end with it, and join the group as this.")
    ] = None,
) -> None:
    """Run the pipeline: scoring turns news into signals, storing writes both to Postgres."""
    from earlybell.streams import logs, supervisor

    settings = _settings(advise=member is None)
    logs.configure(settings.log_level, settings.log_format)
    if member is not None:
        supervisor.stop_with_parent()
    if role is None:
        import asyncio

        code = asyncio.run(supervisor.supervise(settings))
    else:
        logs.name_role(role)
        from earlybell.streams import role_process

        code = role_process.run(role, settings, member)
    raise typer.Exit(code)


@db.command()
def upgrade() -> None:
    """Create the schema, or upgrade it to this version."""
    from earlybell.storage import migrations

    print(f"schema {migrations.upgrade(_settings().database)}")


@db.command()
def url() -> None:
    """Print the database's URL, password included: psql "$(earlybell db url)"."""
    from earlybell.deploy.local import stack
    from earlybell.streams.exceptions import CommandError

    settings = _settings()
    if "database_url" not in settings.model_fields_set and stack.recorded_database() is None:
        raise CommandError(f"no Postgres runs here: {POSTGRES_ADVICE.partition('? ')[2]}")
    print(settings.database)


@db.command()
def current() -> None:
    """Print the revision of the schema."""
    from earlybell.storage import schema

    print(schema.current(_settings().database) or "none: run `earlybell db upgrade`")


@app.command(rich_help_panel=DAILY)
def replay(
    file: Annotated[
        str, typer.Argument(help="A JSONL, CSV or TSV file, plain or compressed (.gz, .xz, .bz2); - for stdin.")
    ],
    *,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="FIELD=COLUMN", help="Take a field from this column, or its number if there is no header."
        ),
    ] = None,
    file_format: Annotated[
        NewsFormat | None, typer.Option("--format", help="Read the file as this. The default follows its name.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Read times without an offset in this zone, such as America/New_York.")
    ] = None,
    speed: Annotated[str, typer.Option(help="Play at this multiple of real time, by published_at, or at max.")] = "max",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many rows.")] = None,
    topic: Annotated[str | None, typer.Option(help="Publish on this topic. The default is the news topic.")] = None,
    raw: Annotated[
        bool, typer.Option(help="Send each line of a JSONL file unchanged, and an empty one as a tombstone.")
    ] = False,
) -> None:
    """Publish the rows of a file as news. Rows that are not valid news are reported and skipped."""
    from earlybell.streams.commands import replay

    _quiet()
    replay.replay_file(
        _settings(),
        file,
        pairs=mapping or [],
        file_format=file_format,
        timezone=timezone,
        speed=speed,
        limit=limit,
        topic=topic,
        raw=raw,
    )


@app.command(rich_help_panel=DAILY)
def watch(
    from_start: Annotated[bool, typer.Option(help="Start with every signal that the topic still holds.")] = False,
    symbol: Annotated[str | None, typer.Option(help="Print only signals about this symbol.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Print signals as they arrive, until Ctrl-C."""
    from earlybell.streams.commands import watch

    _quiet()
    watch.watch(_settings(), from_start=from_start, symbol=symbol, as_json=as_json)


@app.command(rich_help_panel=STACK)
def settings() -> None:
    """Print every setting: its variable, its value (secrets masked) and its description."""
    from earlybell.streams.commands import show_settings

    show_settings.show(_settings())


@app.command(rich_help_panel=DAILY)
def dead(
    letter: Annotated[
        str | None, typer.Argument(metavar="[PARTITION:OFFSET]", help="Show this letter in full.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="List this many, the latest.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print every letter as a JSON line.")] = False,
) -> None:
    """Count the dead letters by reason and list the latest, or show one in full."""
    from earlybell.streams.commands import dead

    _quiet()
    dead.show(_settings(), place=letter, last=last, as_json=as_json)


@app.command(rich_help_panel=DAILY)
def redrive(
    limit: Annotated[int | None, typer.Option(min=1, help="Send at most this many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count those that would be sent.")] = False,
) -> None:
    """Send dead letters back to the topic they came from, once each, after the cause is fixed."""
    from earlybell.streams.commands import redrive

    _quiet()
    letters = redrive.redrive(_settings(), limit=limit, dry_run=dry_run)
    print(f"{letters:,} dead letter{'' if letters == 1 else 's'} {'would be ' if dry_run else ''}sent back")


def _settings(*, advise: bool = True) -> Settings:
    from earlybell.streams import setting_errors
    from earlybell.streams.settings import ENV_PREFIX, load_settings

    settings = load_settings()
    for line in setting_errors.unknown(os.environ, ENV_PREFIX, type(settings).model_fields) if advise else ():
        print(f"earlybell: {line}", file=sys.stderr)
    return settings


def _quiet() -> None:
    from earlybell.streams import logs

    logs.silence()


def execute(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. A user's error is one line on the standard error."""
    try:
        code = app(args=list(arguments) or ["--help"], prog_name="earlybell", standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        return INTERRUPTED
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "earlybell"
        return _fail(f"{_plain(_one_line(error.format_message())).rstrip('.')} (see `{command} --help`)")
    except StorageUnavailable as error:
        return _fail(f"{_one_line(error)}; {POSTGRES_ADVICE}")
    except UserError as error:
        return _fail(_one_line(error))
    except BrokenPipeError:
        # The reader has gone (`earlybell watch | head`), so nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _plain(message: str) -> str:
    """Return a message of the argument parser without the words of the library that checks values."""
    for theirs, ours in _PLAIN_WORDS:
        message = re.sub(theirs, ours, message)
    return message


def _fail(line: str) -> int:
    print(f"earlybell: {line}", file=sys.stderr)
    return USER_ERROR


def _one_line(error: UserError | str) -> str:
    return masked(" ".join(str(error).split())) or type(error).__name__


def main() -> None:
    """Run the command line and exit."""
    sys.exit(execute(sys.argv[1:]))


if __name__ == "__main__":
    main()
