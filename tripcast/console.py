"""What a person sees in the terminal: progress while a pipeline runs, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tripcast.settings import Settings

if TYPE_CHECKING:
    from pipelines.local import StepEvent
    from tripcast.registry import Move, Version

#: Columns of the candidates' table: the figure's name in the summary, the heading, and how it is written.
_FIGURES = (
    ("rmse", "RMSE", "{:.3f}"),
    ("mae", "MAE", "{:.3f}"),
    ("p90_error", "90 % of errors below", "{:.2f}"),
    ("r2", "R²", "{:.3f}"),
    ("interval_coverage", "in 10-90 % interval", "{:.1%}"),
    ("seconds", "training s", "{:.1f}"),
)


class Progress:
    """Shows the tasks of a run on standard error: live in a terminal, a line each elsewhere.

    Call it with what happens; it may be called from several threads.

    Attributes:
        seconds: How long each finished step took, by the step's name; where it fanned out, from its first task's
            start to its last one's end. ``total`` is the whole run.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._began = time.monotonic()
        self._spans: dict[str, tuple[float, float]] = {}
        self._events: dict[str, StepEvent] = {}
        self._starts: dict[str, float] = {}
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, event: StepEvent) -> None:
        """Take in what happened to a task."""
        now = time.monotonic()
        with self._lock:
            self._events[event.label] = event
            self._starts.setdefault(event.label, now)
            if event.state in ("succeeded", "failed"):
                first, _ = self._spans.get(event.step, (now - event.seconds, now))
                self._spans[event.step] = (min(first, now - event.seconds), now)
        if not self._console.is_terminal and event.state != "progress":
            took = f" in {event.seconds:.1f} s" if event.state != "started" else ""
            self._console.print(f"{event.label}: {event.state}{took}", highlight=False)

    @property
    def seconds(self) -> dict[str, float]:
        """See the class."""
        steps = {step: round(last - first, 2) for step, (first, last) in self._spans.items()}
        return {**steps, "total": round(time.monotonic() - self._began, 2)}

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 2))
        marks = {"started": "…", "progress": "…", "succeeded": "✓", "failed": "✗"}
        colours = {"started": "cyan", "progress": "cyan", "succeeded": "green", "failed": "red"}
        with self._lock:
            for label, event in self._events.items():
                running = event.state in ("started", "progress")
                seconds = time.monotonic() - self._starts[label] if running else event.seconds
                mark = Text(marks[event.state], style=colours[event.state])
                table.add_row(mark, label, Text(f"{seconds:5.1f} s", style="dim"), Text(event.text, style="dim"))
        return table


def print_summary(summary: Mapping[str, Any], settings: Settings) -> None:
    """Print what came of a training run.

    Args:
        summary: The document that ``tripcast train --json`` prints.
        settings: Where things are kept.
    """
    console = Console(highlight=False)
    table = Table(title=f"On {summary['trips']:,} trips of {summary['test_month']}, minutes", title_justify="left")
    table.add_column("candidate")
    for _, heading, _ in _FIGURES:
        table.add_column(heading, justify="right")
    rows = dict(summary["candidates"])
    if summary["champion"]:
        rows[f"champion (version {summary['champion']['version']})"] = summary["champion"]
    for name, figures in rows.items():
        best = name == summary["winner"]
        cells = [style.format(figures[key]) if key in figures else "" for key, _, style in _FIGURES]
        table.add_row(name, *cells, style="bold" if best else None)
    console.print()
    console.print(table)
    colour = {"promoted": "green", "refused": "yellow", "unchanged": "cyan"}[summary["decision"]]
    console.print(f"[bold {colour}]{summary['decision'].capitalize()}.[/] {summary['reason']}")
    for check in summary["checks"]:
        console.print(f"  {'[green]✓[/]' if check['passed'] else '[red]✗[/]'} {check['sentence']}")
    steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in summary["seconds"].items())
    console.print()
    console.print(f"Model    {summary['model']}" + (f" version {summary['version']}" if summary["version"] else ""))
    console.print(f"Report   {summary['report']}", soft_wrap=True)
    console.print(f"MLflow   tripcast ui   (run {summary['run_id']} in {settings.tracking_uri})", soft_wrap=True)
    console.print(f"Seconds  {steps}")


def print_models(name: str, versions: Sequence[Version], moves: Sequence[Move]) -> None:
    """Print a registered model's versions and its promotion record."""
    console = Console(highlight=False)
    if not versions:
        console.print(f"{name} has no versions yet: 'tripcast train' makes the first.")
        return
    table = Table(title=name, title_justify="left")
    for heading in ("version", "serves as", "candidate", "trained on", "RMSE", "on", "registered"):
        table.add_column(heading)
    for version in versions:
        tags = version.tags
        table.add_row(
            str(version.number),
            ", ".join(version.aliases),
            tags.get("tripcast.candidate", ""),
            tags.get("tripcast.train_months", ""),
            tags.get("tripcast.rmse", ""),
            tags.get("tripcast.test_month", ""),
            f"{version.created:%Y-%m-%d %H:%M} UTC",
        )
    console.print(table)
    record = Table(title="Promotions", title_justify="left")
    for heading in ("when", "what", "version", "instead of", "why"):
        record.add_column(heading)
    for move in moves:
        record.add_row(
            move.at[:16].replace("T", " "), move.action, str(move.version), str(move.replaced or ""), move.reason
        )
    console.print(record)
