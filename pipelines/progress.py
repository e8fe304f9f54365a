"""What happens while a pipeline runs, and how a person sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Literal

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class StepEvent:
    """Something that happened to a task.

    Attributes:
        step: The step's name, for example ``train``.
        label: The task's name, for example ``train lightgbm``.
        state: What happened.
        seconds: How long the task has run.
        text: The progress line, where the state is ``progress``.
    """

    step: str
    label: str
    state: Literal["started", "progress", "succeeded", "failed"]
    seconds: float = 0.0
    text: str = ""


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


class MonthsProgress:
    """Shows how far a walk through months is, on standard error: a bar in a terminal, a line a month elsewhere.

    Args:
        months: How many there are.
    """

    def __init__(self, months: int) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(
            *columns,
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            # A month takes minutes: what is left is told from all of them, not from those of the last half minute.
            speed_estimate_period=24 * 3600,
        )
        self._months = self._bar.add_task("", total=months)
        self._begun = False

    def __enter__(self) -> MonthsProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._bar.advance(self._months)
        self._bar.stop()

    def month(self, month: str) -> None:
        """The next month begins, so the one before is over."""
        if self._begun:
            self._bar.advance(self._months)
        self._begun = True
        self._bar.update(self._months, description=month)
        if not self._console.is_terminal:
            self._console.print(month, highlight=False)

    def step(self, event: StepEvent) -> None:
        """Something happened to a task of a run."""
        if event.state == "started":
            self._bar.update(self._months, description=event.label)
