"""What a person sees in the terminal when it is done: what came of a run, and what the registry holds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tripcast.registry.versions import SIMULATED
from tripcast.settings import Settings

if TYPE_CHECKING:
    from tripcast.registry.promotions import PromotionEvent
    from tripcast.registry.versions import Version

#: What became of the best candidate, in a colour.
_COLOURS = {"promoted": "green", "trial": "green", "refused": "yellow", "unchanged": "cyan"}

#: Columns of what is redirected: a table in a file need not fit a screen.
_FILE_WIDTH = 160

#: Columns of the candidates' table: the figure's name in the summary, the heading, and how it is written.
_FIGURES = (
    ("rmse", "RMSE", "{:.3f}"),
    ("mae", "MAE", "{:.3f}"),
    ("p90_error", "90 % of errors below", "{:.2f}"),
    ("r2", "R²", "{:.3f}"),
    ("interval_coverage", "in 10-90 % interval", "{:.1%}"),
    ("seconds", "training s", "{:.1f}"),
)


def make_console() -> Console:
    """A console that leaves it to the terminal to break long lines: a path in two pieces cannot be copied."""
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


def print_summary(summary: Mapping[str, Any], settings: Settings) -> None:
    """Print what came of a training run.

    Args:
        summary: The document that ``tripcast train --json`` prints.
        settings: Where things are kept.
    """
    console = make_console()
    table = Table(title=f"On {summary['trips']:,} trips of {summary['test_month']}, minutes", title_justify="left")
    table.add_column("candidate")
    for _, heading, _ in _FIGURES:
        table.add_column(heading, justify="right")
    rows = dict(summary["candidates"])
    if summary["champion"]:
        rows[f"champion (version {summary['champion']['version']})"] = summary["champion"]
    for name, figures in rows.items():
        best = name == summary["best"]
        cells = [style.format(figures[key]) if key in figures else "" for key, _, style in _FIGURES]
        table.add_row(name, *cells, style="bold" if best else None)
    console.print()
    console.print(table, soft_wrap=False)
    colour = _COLOURS[summary["decision"]]
    verdict = "Passed the gate" if summary["approval"] else summary["decision"].capitalize()
    console.print(f"[bold {colour}]{verdict}.[/] {escape(summary['reason'])}")
    for check in summary["checks"]:
        console.print(f"  {'[green]✓[/]' if check['passed'] else '[red]✗[/]'} {escape(check['sentence'])}")
    steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in summary["seconds"].items())
    console.print()
    console.print(f"Model    {summary['model']}" + (f" version {summary['version']}" if summary["version"] else ""))
    console.print(f"Serves   {escape(summary['serves'])}")
    console.print(f"Report   {summary['report']}")
    if "://" in summary["artifacts"]:
        console.print(f"Files    {summary['artifacts']}")
    console.print(f"MLflow   tripcast ui   (run {summary['run_id']} in {settings.tracking_uri})")
    console.print(f"Seconds  {steps}")


def print_scores(summary: Mapping[str, Any]) -> None:
    """Print what came of scoring months.

    Args:
        summary: The document that ``tripcast score --json`` prints.
    """
    console = make_console()
    title = f"{summary['model']} version {summary['version']}"
    table = Table("month", title=title, title_justify="left")
    for heading in ("trips", "predicted", "not predicted", "RMSE, minutes", "on trips"):
        table.add_column(heading, justify="right")
    for month in summary["months"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in month["not_predicted"].items() if count)
        table.add_row(
            month["month"],
            f"{month['trips']:,}",
            f"{month['predicted']:,}",
            reasons or "0",
            f"{month['rmse']:.3f}" if "rmse" in month else "",
            f"{month['judged']:,}",
        )
    console.print()
    console.print(table, soft_wrap=False)
    console.print(f"Scores   {summary['scores']}")
    console.print("         parquet by month: pyarrow.dataset.dataset(..., partitioning='hive')")


def print_models(name: str, versions: Sequence[Version], moves: Sequence[PromotionEvent], waiting: int | None) -> None:
    """Print a registered model's versions and its promotion record.

    Args:
        name: The registered model's.
        versions: All of them.
        moves: The record.
        waiting: The version that waits for a person's approval.
    """
    console = make_console()
    if not versions:
        console.print(f"{name} has no versions yet: 'tripcast train' makes the first.")
        return
    table = Table(title=name, title_justify="left", box=SIMPLE)
    for heading in ("version", "serves as", "candidate", "trained on", "RMSE", "on", "registered"):
        table.add_column(heading, no_wrap=True)
    for version in versions:
        tags = version.tags
        learned = tags.get("tripcast.train_months", "").split(",")
        if tags.get(SIMULATED) == "true":
            learned.append("(simulated)")
        table.add_row(
            str(version.number),
            "\n".join([*version.aliases, *(["(waits)"] if version.number == waiting else [])]),
            tags.get("tripcast.candidate", ""),
            "\n".join(learned),
            tags.get("tripcast.rmse", ""),
            tags.get("tripcast.test_month", ""),
            f"{version.created:%Y-%m-%d}",
        )
    console.print(table, soft_wrap=False)
    record = Table(title="Promotions", title_justify="left", box=SIMPLE)
    for heading in ("when", "what", "version", "instead of", "riders", "why"):
        record.add_column(heading)
    for move in moves:
        share = "" if move.share is None else f"{move.share:.0%}"
        why = f"{move.by}: {move.reason}" if move.by else move.reason
        when = move.at[:16].replace("T", " ")
        record.add_row(when, move.action, str(move.version), str(move.replaced or ""), share, why)
    console.print(record, soft_wrap=False)


def print_turn(document: Mapping[str, Any]) -> None:
    """Print what a turn of the loop did.

    Args:
        document: What ``tripcast loop --json`` prints.
    """
    console = make_console()
    console.print()
    if document["month"] is None:
        console.print(document["response"])
        return
    result, colour = document["result"], {"nothing": "green", "alert": "yellow", "retrain": "green"}[document["action"]]
    action = {"nothing": "Nothing to do", "alert": "Alert", "retrain": "A candidate is trained"}[document["action"]]
    console.print(f"{document['month']}  [bold {colour}]{action}.[/] {escape(document['response'])}")
    for incident in document["incidents"]:
        console.print(f"  [red]![/] {incident['kind']}, since {incident['since']}: {escape(incident['sentence'])}")
    if result["rmse"] and result["expected_rmse"]:
        console.print(
            f"Version {result['version']}: RMSE {result['rmse']['value']:.3f} minutes, {result['expected_rmse']:.3f} "
            "expected."
        )
    trained = document["trained"]
    if trained and "run" in trained:
        console.print(f"Trains   run {trained['run']} of Kubeflow Pipelines")
    elif trained:
        console.print(f"Trained on {trained['train_months']}: {trained['decision']}. {escape(trained['reason'])}")
        console.print(f"Serves   {escape(trained['serves'])}")
    console.print(f"Report   {document['report']}")


def print_replay(document: Mapping[str, Any]) -> None:
    """Print what came of a replay.

    Args:
        document: What ``tripcast replay --json`` prints.
    """
    console = make_console()
    table = Table(title="RMSE, minutes", title_justify="left")
    table.add_column("month")
    for heading in ("system", "anew monthly", "once", "notebook"):
        table.add_column(heading, justify="right")
    table.add_column("served", justify="right")
    table.add_column("what happened")
    for month in document["months"]:
        errors = (month[f"{name}_rmse"] for name in ("system", "retrained_monthly", "trained_once", "notebook"))
        cells = ["broken" if error is None else f"{error:.3f}" for error in errors]
        table.add_row(
            month["month"],
            *cells,
            f"version {month['served_version']}",
            ", ".join(event["kind"] for event in month["events"]),
        )
    console.print()
    console.print(table, soft_wrap=False)
    console.print(document["headline"])
    console.print(document["counted"])
    console.print(f"Page     {document['page']}")
