"""What the command line says: at 80 columns, redirected, and in its help."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pipelines.progress import MonthsProgress
from tripcast.cli import main
from tripcast.cli.console import print_models
from tripcast.monitoring.rule import Rule
from tripcast.registry.versions import Version


def commands(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, *path, name) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("command", commands(main), ids=" ".join)
def test_the_help_of_every_command_lists_its_exit_codes(command: tuple[str, ...]) -> None:
    said = CliRunner().invoke(main, [*command, "--help"]).stdout
    assert "Exit codes:" in said
    assert "130  interrupted" in said


@pytest.mark.parametrize("command", ["loop", "replay"])
def test_the_help_says_what_each_threshold_of_the_rule_is(command: str) -> None:
    said = " ".join(CliRunner().invoke(main, [command, "--help"]).stdout.split())
    for name in Rule.__dataclass_fields__:
        assert f"{name}={getattr(Rule(), name)}" in said
    assert f"n={Rule().n} Of how many" in said


def test_a_command_whose_packages_an_image_lacks_says_so(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tripcast.cli.console", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)  # as if it were not there
    ended = CliRunner().invoke(main, ["models", "--home", str(tmp_path)])
    assert ended.exit_code == 1
    assert ended.stderr.startswith("Error: This needs the package 'rich'")
    assert "make setup" in ended.stderr


def version(number: int, *aliases: str, **tags: str) -> Version:
    given: dict[str, Any] = {f"tripcast.{name}": value for name, value in tags.items()}
    return Version(number, aliases, datetime(2026, 1, 5, 6, 7, tzinfo=UTC), None, given)


def test_models_fit_80_columns_and_tell_simulated_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tripcast.cli.console._FILE_WIDTH", 80)
    about = {"candidate": "lightgbm", "rmse": "4.836", "test_month": "2021-03"}
    print_models(
        "tripcast-green",
        [
            version(12, "champion", "previous", train_months="2021-01,2021-02", **about),
            version(3, "challenger", train_months="2020-11,2020-12,2021-01", simulated="true", **about),
        ],
        [],
        waiting=3,
    )
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    for word in ("champion", "previous", "challenger", "lightgbm", "2021-02", "2020-11", "(simulated)", "4.836"):
        assert word in said
    assert said.count("(simulated)") == 1


def test_redirected_progress_is_a_line_a_month(capsys: pytest.CaptureFixture[str]) -> None:
    with MonthsProgress(2) as progress:
        progress.month("2021-01")
        progress.month("2021-02")
    assert capsys.readouterr().err == "2021-01\n2021-02\n"
