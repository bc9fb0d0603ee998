"""The account of a run under faults: what came out, against what is known to have gone in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from earlybell.streams.records import SentimentSignal, decode_signal
from earlybell.streams.settings import Settings
from tests.faults.load import Input, Revision
from tests.integration.whole_pipeline import messages, query


@dataclass(frozen=True)
class Account:
    """What is wrong with what came out, one line each; true if nothing is."""

    lost: Sequence[str]
    doubled: Sequence[str]
    wrong: Sequence[str]

    def __bool__(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def __str__(self) -> str:
        counts = f"lost {len(self.lost)}, doubled {len(self.doubled)}, wrong {len(self.wrong)}"
        return "\n  ".join([counts, *self.lost[:5], *self.doubled[:5], *self.wrong[:5]])


@dataclass(frozen=True)
class Output:
    """What is on the topics and in the tables: every row and every message."""

    rows: Mapping[str, Sequence[Revision]]
    stored_signals: Set[str]
    signals: Sequence[SentimentSignal]
    letters: Sequence[bytes | None]


def account(settings: Settings, given: Input) -> Account:
    """Compare both tables and both topics with the input."""
    return compare(
        given,
        Output(
            {table: query(settings, f"SELECT news_id, revision FROM {table}") for table in ("news", "signals")},
            {row[0] for row in query(settings, "SELECT signal_id FROM signals")},
            [decode_signal(message.value) for message in messages(settings, settings.sentiment_topic)],
            [message.value for message in messages(settings, settings.dead_topic)],
        ),
    )


def compare(given: Input, output: Output) -> Account:
    """Return what differs: each revision has one row in each table and one answer, each broken message a letter."""
    lost: list[str] = []
    doubled: list[str] = []
    wrong: list[str] = []
    for table, revisions in output.rows.items():
        rows = Counter(revisions)
        lost += [f"{table}: {revision}" for revision in sorted(given.revisions - rows.keys())]
        wrong += [f"{table}: {revision} was never published" for revision in sorted(rows.keys() - given.revisions)]
        doubled += [f"{table}: {revision} has {count} rows" for revision, count in sorted(rows.items()) if count > 1]
    answers: dict[str, SentimentSignal] = {}
    for signal in output.signals:
        if _answer(answers.setdefault(signal.signal_id, signal)) != _answer(signal):
            wrong.append(f"signal {signal.signal_id} has two answers")
    signalled = Counter((signal.news_id, signal.revision) for signal in answers.values())
    lost += [f"signal of {revision}" for revision in sorted(given.revisions - signalled.keys())]
    wrong += [f"{revision} has {count} signal ids" for revision, count in sorted(signalled.items()) if count > 1]
    wrong += [f"row {signal_id} is not on the topic" for signal_id in sorted(output.stored_signals - answers.keys())]
    letters = set(output.letters)
    lost += [f"dead letter {value!r}" for value in sorted(given.broken - letters)]
    wrong += [f"dead letter {value!r} was not broken" for value in sorted(letters - given.broken, key=repr)]
    return Account(lost, doubled, wrong)


def _answer(signal: SentimentSignal) -> tuple[object, ...]:
    return signal.probabilities, signal.news_id, signal.revision
