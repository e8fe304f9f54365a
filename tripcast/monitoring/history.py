"""The history of a model's monitoring: what was found in each window, what was decided, and what was done about it.

Each window has a folder in the artifact store::

    monitoring/{name}/{month}/report.html, summary.md    for people; they may be removed when they are old
    monitoring/{name}/{month}/window.json                the record, written last
    monitoring/{name}/{month}/responded.json             that its decision was carried out
    monitoring/{name}/{month}/retrained.json             what became of the retraining that it called for

So whoever comes back to a window, after a crash or by mistake, finds out what is left to do. Once it is there, a record
does not change, but for one: a month that was broken is recorded anew when its source has mended it. What was done
about a window names the revision of its data, so that what was done about the broken month is not taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tripcast.errors import StorageError
from tripcast.monitoring.rule import DEFAULT_RULE, Incident, WindowResult
from tripcast.monitoring.trial import Comparison, Trial
from tripcast.storage.files import storage_errors
from tripcast.storage.store import Store, Stored

Record = TypeVar("Record")

_RECORD, _RESPONDED, _RETRAINED = "window.json", "responded.json", "retrained.json"
_REPORT, _SUMMARY = "report.html", "summary.md"


@dataclass(frozen=True)
class Retraining:
    """On which months to train anew.

    Attributes:
        train: The training months, as ``2021-01,2021-02``.
        test: The month to judge on.
        min_gain: The least reduction of RMSE there, as a share of the champion's, for which a candidate replaces it.
    """

    train: str
    test: str
    min_gain: float = DEFAULT_RULE.min_gain


@dataclass(frozen=True)
class Window:
    """The record of a window.

    Attributes:
        result: What the rule looks at.
        action: What it decided: ``nothing``, ``alert`` or ``retrain``.
        reason: Why, as a sentence.
        incidents: What is wrong.
        trial: What the window said of the challenger; None if there was none, or it could not be judged.
        comparison: The champion beside the one before it; None if there was none, or they could not be judged.
        retraining: What to train on; None unless the action is ``retrain``.
        figures: All that was measured, ready for JSON.
        revision: Which edition of the month's data this is about, see ``tripcast.taxi.sources.Source.revision``.
    """

    result: WindowResult
    action: str
    reason: str
    incidents: tuple[Incident, ...] = ()
    trial: Trial | None = None
    comparison: Comparison | None = None
    retraining: Retraining | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    revision: str = ""

    @property
    def month(self) -> str:
        """The window's key: its month."""
        return self.result.key

    @property
    def versions(self) -> set[int]:
        """The versions that its pages name."""
        named = {self.result.version, *(quality["version"] for quality in self.figures.get("quality", ()))}
        if self.trial:
            named |= {self.trial.challenger, self.trial.champion}
        if self.comparison:
            named |= {self.comparison.champion, self.comparison.previous}
        return named

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        entries: dict[str, Any] = msgspec.to_builtins(self)
        return entries


class History:
    """What monitoring recorded of one model.

    Args:
        store: Where.
        name: Of the folder, for example ``green``.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._prefix = f"monitoring/{name}/"

    def windows(self) -> list[Window]:
        """All windows, in order of time.

        Raises:
            StorageError: If the store cannot be read, or a record is damaged.
        """
        keys = self._store.list(self._prefix)
        return [self._window(key) for key in keys if key.endswith(f"/{_RECORD}")]

    def window(self, month: str) -> Window | None:
        """The record of a month; None if it was not watched.

        Raises:
            StorageError: If the store cannot be read, or the record is damaged.
        """
        key = f"{self._prefix}{month}/{_RECORD}"
        return self._window(key) if key in self._store.list(key) else None

    def pages(self, month: str, report: Path, summary: Path) -> None:
        """Fetch the pages of a month that was watched; where they were removed, a sentence takes their place.

        Raises:
            StorageError: If they cannot be fetched.
        """
        there = self._store.list(f"{self._prefix}{month}/")
        for name, file in ((_REPORT, report), (_SUMMARY, summary)):
            if (key := f"{self._prefix}{month}/{name}") in there:
                self._store.get(key, file)
            else:
                with storage_errors(file):
                    file.write_text(f"The pages of {month} were removed, for they were old. Its record is kept.\n")

    def page_files(self) -> dict[str, dict[str, Stored]]:
        """The pages that are kept, by month."""
        found: dict[str, dict[str, Stored]] = {}
        for key, stored in self._store.find(self._prefix).items():
            month, _, name = key.removeprefix(self._prefix).partition("/")
            if name in (_REPORT, _SUMMARY):
                found.setdefault(month, {})[key] = stored
        return found

    def report_uri(self, month: str) -> str:
        """Where the report of a month is, or will be."""
        return f"{self._store.uri}/{self._prefix}{month}/{_REPORT}"

    def record(self, window: Window, report: Path, summary: Path) -> None:
        """Record a window: its pages first.

        Raises:
            StorageError: If it cannot be kept.
        """
        place = self._prefix + window.month
        self._store.put(report, f"{place}/{_REPORT}", "text/html; charset=utf-8")
        self._store.put(summary, f"{place}/{_SUMMARY}", "text/markdown; charset=utf-8")
        self._write(window.month, _RECORD, window)

    def save_response(self, window: Window, what: Mapping[str, Any]) -> None:
        """Note that a window's decision was carried out, but for the training."""
        self._write(window.month, _RESPONDED, {**what, "revision": window.revision})

    def get_response(self, window: Window) -> dict[str, Any] | None:
        """What was done about a window; None if nothing yet."""
        return self._find(window.month, _RESPONDED, window.revision)

    def save_retraining(self, window: Window, what: Mapping[str, Any]) -> None:
        """Note what became of the training that a window called for."""
        self._write(window.month, _RETRAINED, {**what, "revision": window.revision})

    def get_retraining(self, window: Window) -> dict[str, Any] | None:
        """What became of the training that a window called for; None if nothing yet."""
        return self._find(window.month, _RETRAINED, window.revision)

    def is_done(self, window: Window) -> bool:
        """Whether nothing is left to do about a window."""
        if self.get_response(window) is None:
            return False
        return window.action != "retrain" or self.get_retraining(window) is not None

    def _window(self, key: str) -> Window:
        window = self._read(key, Window)
        return replace(window, result=replace(window.result, retrained=window.action == "retrain"))

    def _find(self, month: str, name: str, revision: str) -> dict[str, Any] | None:
        """A note about a month; None if there is none, or it is about another revision than the one asked for."""
        key = f"{self._prefix}{month}/{name}"
        entries = self._read(key, dict[str, Any]) if key in self._store.list(key) else None
        return entries if entries is not None and entries.pop("revision", "") == revision else None

    def _read(self, key: str, kind: type[Record]) -> Record:
        try:
            return msgspec.json.decode(self._store.read(key), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as trouble:
            raise StorageError(
                f"{self._store.uri}/{key} cannot be read ({trouble}). Look at it, then remove it."
            ) from trouble

    def _write(self, month: str, name: str, record: Window | Mapping[str, Any]) -> None:
        text = msgspec.json.format(msgspec.json.encode(record), indent=1)
        self._store.write(f"{self._prefix}{month}/{name}", text + b"\n", "application/json")
