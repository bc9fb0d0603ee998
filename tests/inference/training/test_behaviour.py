from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from earlybell.inference.engine import open_engine
from earlybell.inference.training.behaviour import Case, Outcome, missed, outcomes, read_suite, summary
from earlybell.inference.training.commands import app
from earlybell.inference.training.data import LABELS, DataError

DEV = Path(__file__).parents[2] / "behaviour" / "dev"
CAPABILITIES = frozenset(
    [
        "bad_thing_falls",
        "bad_thing_rises",
        "good_thing_falls",
        "good_thing_rises",
        "less_bad_than_expected",
        "worse_than_expected_or_better",
        "figures_against_estimates",
        "figures_against_prior",
        "negation",
        "negation_scope",
        "turning_points",
        "rivals",
        "inputs",
        "events_insolvency_fraud",
        "events_regulators_courts",
        "events_management_audit",
        "events_guidance_capital",
        "events_contracts_deals",
        "operations",
        "plain_neutral",
        "sarcasm",
        "emoji",
        "cashtags_social",
        "invariances",
        "intensity",
        "analysts",
        "macro_markets",
        "concession_mixed",
    ]
)


def outcome(label: str, answer: str, kind: str = "case", group: str = "", capability: str = "one") -> Outcome:
    return Outcome(Case(capability, "a text that is never printed", label, kind, group), answer, 2)


def write(directory: Path, *rows: dict[str, str]) -> Path:
    (directory / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_the_dev_half_covers_every_capability() -> None:
    cases = read_suite(DEV)
    counts = {name: sum(case.capability == name for case in cases) for name in {case.capability for case in cases}}
    assert set(counts) == CAPABILITIES
    assert min(counts.values()) >= 12
    assert len(cases) >= 350
    assert len({case.text for case in cases}) == len(cases)
    assert {case.label for case in cases} == set(LABELS)


def test_figures_of_known_outcomes() -> None:
    results = [
        outcome("positive", "positive", "pair", "a"), outcome("negative", "negative", "pair", "a"),
        outcome("positive", "positive", "pair", "b"), outcome("negative", "positive", "pair", "b"),
        outcome("neutral", "positive"),
        *[outcome("positive", "neutral", "invariance", "c", "two")] * 3,
        *[outcome("positive", answer, "invariance", "d", "two") for answer in ("positive", "positive", "negative")],
    ]  # fmt: skip
    figures = summary(results)
    assert list(figures) == ["one", "two", "total"]
    assert figures["one"] | {"mean_depth": 2.0} == figures["one"]
    one = {"n": 5, "accuracy": 0.6, "opposite": 0.2, "pairs": 2, "pairs_right": 1, "invariances": 0}
    assert one.items() <= figures["one"].items()
    two = {"n": 6, "accuracy": 0.3333, "opposite": 0.1667, "invariances": 2, "invariances_consistent": 1}
    assert two.items() <= figures["two"].items()
    assert figures["total"]["accuracy"] == round(5 / 11, 4)
    assert len(missed(results)) == 6


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "Up", "label": "glad", "kind": "case", "group": ""}],
        [{"text": "Up", "label": "positive", "kind": "trio", "group": "a"}],
        [{"text": "Up", "label": "positive"}],
        [{"text": text, "label": "positive", "kind": "pair", "group": "a"} for text in ("Up", "Down")],
        [{"text": text, "label": "positive", "kind": "invariance", "group": "a"} for text in ("Up", "Down")],
    ],
)
def test_malformed_cases_are_refused(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    with pytest.raises(DataError):
        read_suite(write(tmp_path, *rows))


def test_a_directory_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no behavioural suite"):
        read_suite(tmp_path)


def test_the_command_prints_counts_and_no_case(tmp_path: Path) -> None:
    secret = "Wexlow loses its licence"
    write(tmp_path, *({"text": f"{secret} {n}", "label": "neutral", "kind": "case", "group": ""} for n in range(3)))
    arguments = ["evaluate", "--behaviour", str(tmp_path), "--precision", "float32"]
    for extra in ([], ["--json"]):
        result = CliRunner().invoke(app, arguments + extra)
        assert result.exit_code == 0, result.output
        assert "Wexlow" not in result.output
    figures = json.loads(result.output)
    assert figures["total"]["n"] == figures["one"]["n"] == 3
    assert "Wexlow" in CliRunner().invoke(app, [*arguments, "--missed"]).output


def test_the_command_wants_texts_or_a_suite_and_not_both(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["evaluate"]).exit_code == 2
    assert CliRunner().invoke(app, ["evaluate", "x.jsonl", "--behaviour", str(tmp_path)]).exit_code == 2


def test_the_shipped_model_is_measured_on_every_case() -> None:
    cases = read_suite(DEV)
    figures = summary(outcomes(cases, open_engine("cpu")))
    assert figures["total"]["n"] == len(cases)
    assert figures["invariances"]["invariances"] >= 5
    assert figures["total"]["pairs"] >= 25
    assert 0 < figures["total"]["mean_depth"] <= 6
