"""Text from data moves no cursor, forges no line and breaks no table on the terminal."""

from __future__ import annotations

import pandas as pd
import pytest
from made_up_results import results, written
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.errors import SaePipelineError, StudyError
from sae_pipeline.safety.text import plain, without_secrets
from sae_pipeline.terminal import print_table, say

ESCAPES = "a\x1b[31mred\x1b]0;title\x07\x9b2J\r\u202ecod.exe\ud800"


def test_control_characters_are_written_out() -> None:
    assert plain(ESCAPES) == "a\\x1b[31mred\\x1b]0;title\\x07\\x9b2J\\r\\u202ecod.exe\\ud800"
    assert plain("two\nlines\tand ünïcödé 字 🙂") == "two\nlines\tand ünïcödé 字 🙂"


def test_errors_carry_none_of_them_however_they_are_shown() -> None:
    for error in (SaePipelineError(ESCAPES), StudyError(f"x: {ESCAPES}")):
        for shown in (str(error), repr(error), f"{error}"):
            assert not set("\x1b\x07\x9b\r\u202e\ud800") & set(shown)


@pytest.mark.parametrize("cell", ["[red]x[/red]", "[/nothing]", "[link=https://example.org]y", "\\[", "[", ESCAPES])
def test_a_cell_of_a_table_is_shown_as_it_is(cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"name": cell, "value": 1.0}], ["name", "value"])
    assert f"│ {plain(cell)} " in capsys.readouterr().out


def test_a_line_that_quotes_somebody_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    say(ESCAPES)
    assert capsys.readouterr().out == plain(ESCAPES) + "\n"


@pytest.mark.slow
def test_the_names_of_a_foreign_table_are_printed_without_their_escapes(tmp_path) -> None:
    frame = results().replace({"sae_train_dataset": {"EQ": "\x1b[2JEQ"}}).rename(columns={"dead_features_pct": "dead\x1b]0;title\x07"})
    table = written(tmp_path, pd.DataFrame(frame), "results.parquet")
    result = CliRunner().invoke(app, ["report", "--results", str(table), "--to", str(tmp_path / "report")])
    assert result.exit_code == 0, result.output
    assert "dead\\x1b]0;title\\x07" in result.output
    assert "\x1b" not in result.output


def test_messages_hold_no_password_and_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws/secret+key")
    monkeypatch.setenv("SAE_WORDS_TOKEN", "short")
    said = "postgresql://me:pass@word@db:5432/x refused, as did http://proxy:8080/a?X-Amz-Signature=abc&b=1 with hf_abcdefghijkl, aws/secret+key and short"
    kept = "postgresql://db:5432/x refused, as did http://proxy:8080/a with <HF_TOKEN>, <AWS_SECRET_ACCESS_KEY> and short"
    assert without_secrets(said) == kept
    assert str(SaePipelineError(said)) == kept


def test_of_secrets_that_begin_alike_none_leaves_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in (("HF_TOKEN", "WANDB_API_KEY"), ("WANDB_API_KEY", "HF_TOKEN")):
        for name, value in zip(names, ("abcdefgh", "abcdefghijklmnop"), strict=True):
            monkeypatch.setenv(name, value)
        assert without_secrets("abcdefghijklmnop and abcdefgh") == f"<{names[1]}> and <{names[0]}>"


@pytest.mark.parametrize("password", ["pa/ss", "pa?ss", "pa'ss", "p@ss", "pa?ss/p@ss"])
@pytest.mark.parametrize("user", ["me", "me@lab", ""])
def test_no_sign_in_a_password_leaves_a_part_of_it(user: str, password: str) -> None:
    assert without_secrets(f"s3://{user}:{password}@bucket/x?sig=1 refused") == "s3://bucket/x refused"
