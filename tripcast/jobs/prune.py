"""Retention: what is old goes, but for the newest of its kind, and never what serves or rests on something that stays.

Each kind of thing is judged after those that may rest on it: pages of monitoring, versions, what runs left in MLflow
and in the artifact store, scores, snapshots. It goes if it was last kept long ago, if enough newer ones of its kind
stay, and if nothing that stays needs it:

- A version stays that serves, is tried, could serve again or waits for a person; and one that a page of monitoring
  names.
- Runs and files of a training stay from which a version came that stays.
- A snapshot stays by which such a version, the report of a training or a month of scores was made.

They are removed in this order, too, so that what points to something goes before that; of a training its run in MLflow
last, by which the rest is found. A process that dies half way leaves things that nobody points to, and the next one
removes them. What others are about to use is young: whoever keeps
what is there already makes it young again (``tripcast.storage.store``), and nothing is removed that is younger than the
oldest run that lives on this machine. The records of monitoring (``window.json``) stay for good: the loop goes on from
them, and they are kilobytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any

import msgspec

from tripcast.jobs.score import MARKER
from tripcast.monitoring.history import History, Window
from tripcast.registry.registry import Registry
from tripcast.registry.run_trees import RunTree, RunTrees
from tripcast.registry.versions import DATA, DIGEST, Version
from tripcast.serving import stored_log
from tripcast.settings import Settings
from tripcast.storage.store import FolderStore, Store, Stored, open_store
from tripcast.taxi import model_name
from tripcast.taxi.feeds import FEEDS

#: The list of what a run kept in the artifact store: what points to the rest, and so goes first.
_LISTING = "artifacts.json"
#: A run on a cluster is ended after a day (pipelines/policy.py); what is kept is young for up to another.
_LONGEST_RUN = timedelta(days=2)
#: What tells to which run in MLflow the files of a training belong, and so goes last of them.
_DECISION = "evaluate/decision"


@dataclass(frozen=True)
class Retention:
    """How long things are kept.

    Attributes:
        days: What was last kept so many days ago, or later, stays.
        keep: As do the newest of each kind, so many: versions, trainings and months of scores of each feed.
        log_days: The days of the prediction log that stay.
    """

    days: int = 400
    keep: int = 12
    log_days: int = 400


@dataclass(frozen=True)
class Item:
    """A thing that stays or goes.

    Attributes:
        kind: What it is, for people: ``version``, ``scores``, ...
        name: Which, for people.
        kept: When it was last kept.
        remove: Removes it; again, if need be.
        size: Bytes in the artifact store; None where it is MLflow's.
    """

    kind: str
    name: str
    kept: datetime
    remove: Callable[[], object]
    size: int | None = None

    def after(self, other: Item) -> Item:
        """The same together with another thing, which goes before it."""

        def remove() -> None:
            other.remove()
            self.remove()

        size = (self.size or 0) + (other.size or 0)
        return replace(self, kept=max(self.kept, other.kept), remove=remove, size=size)


@dataclass
class Pruning:
    """What goes, and what stays.

    Attributes:
        going: What goes, in the order in which it is to be removed.
        staying: How many things of a kind stay, by why.
    """

    going: list[Item] = field(default_factory=list)
    staying: dict[str, Counter[str]] = field(default_factory=dict)

    def carry_out(self) -> None:
        """Remove what goes.

        Raises:
            StorageError: If the artifact store cannot be reached or refuses.
            TrackingError: If MLflow does.
        """
        for item in self.going:
            item.remove()


def plan_pruning(
    rule: Retention, settings: Settings, *, running_since: datetime | None = None, now: datetime | None = None
) -> Pruning:
    """Find out what goes and what stays. Nothing is changed.

    Args:
        rule: How long things are kept.
        settings: Where they are.
        running_since: When the oldest run began that lives on this machine; None if none does.
        now: The moment from which ages count; None for this one.

    Raises:
        StorageError: If the artifact store cannot be read.
        TrackingError: If MLflow cannot.
    """
    now = now or datetime.now(UTC)
    young = now - timedelta(days=rule.days)
    return _Planner(rule, settings, min(young, running_since or young), now).plan()


class _Planner:
    """Judges the things of each kind.

    Args:
        rule: How long things are kept.
        settings: Where they are.
        young: From this moment on things are too young to go.
        now: The moment from which ages count.
    """

    def __init__(self, rule: Retention, settings: Settings, young: datetime, now: datetime) -> None:
        self._rule, self._settings, self._young, self._now = rule, settings, young, now
        self._store = open_store(settings.artifacts)
        self._found = Pruning()
        #: The SHA-256 of the months by which something was made that stays.
        self._data: set[str] = set()

    def plan(self) -> Pruning:
        """Judge all."""
        versions = {taxi: self._versions(taxi, self._pages(taxi)) for taxi in FEEDS}
        for taxi in FEEDS:
            self._scores(taxi)
        self._trainings({taxi: {version.run_id for version in stay} for taxi, stay in versions.items()})
        self._snapshots()
        self._log()
        self._tasks()
        return self._found

    def _judge(
        self, items: Iterable[Item], needed: Callable[[Item], str | None] = lambda _: None, *, keep: int | None = None
    ) -> list[Item]:
        """Sort things into those that go and those that stay, and return the latter.

        Args:
            items: Things of one kind, of which the newest stay.
            needed: Why a thing has to stay, whatever its age; None for no reason.
            keep: How many of the newest stay, if not as the rule has it.
        """
        stay = []
        keep = self._rule.keep if keep is None else keep
        for place, item in enumerate(sorted(items, key=lambda item: item.kept, reverse=True)):
            why = needed(item)
            if why is None and item.kept >= self._young:
                why = f"younger than {self._rule.days} days"
            if why is None and place < keep:
                why = f"among the newest {keep}"
            if why is None:
                self._found.going.append(item)
            else:
                self._found.staying.setdefault(item.kind, Counter())[why] += 1
                stay.append(item)
        return stay

    def _pages(self, taxi: str) -> list[Window]:
        """Judge the pages of monitoring, and return the windows of those that stay."""
        history = History(self._store, taxi)
        items = [
            self._files("page of monitoring", f"{taxi} {month}", pages, pages)
            for month, pages in history.page_files().items()
        ]
        stay = {item.name.split()[1] for item in self._judge(items)}
        return [window for window in history.windows() if window.month in stay]

    def _versions(self, taxi: str, pages: Sequence[Window]) -> list[Version]:
        """Judge the versions of a feed's model, and return those that stay."""
        if not RunTrees(model_name(taxi), self._settings).exist:
            return []  # a registry would make its experiment
        registry = Registry(model_name(taxi), self._settings)
        used, named = registry.in_use(), {number for window in pages for number in window.versions}
        versions = {f"{registry.name} {version.number}": version for version in registry.versions()}

        def needed(item: Item) -> str | None:
            version = versions[item.name]
            if version.number in used:
                return "serves, is tried, could serve again or waits for a person"
            if version.number in named:
                return "a page of monitoring names it"
            return None if DIGEST in version.tags else "not tripcast's"

        items = [
            Item("version", name, version.created, partial(registry.delete, version.number))
            for name, version in versions.items()
        ]
        stay = [versions[item.name] for item in self._judge(items, needed)]
        for version in stay:
            self._data |= set(_read(version.tags.get(DATA, "{}").encode()).values())
        return stay

    def _scores(self, taxi: str) -> None:
        items = []
        for folder, files in _by_folder(self._store.find(f"scores/{taxi}/"), depth=4).items():
            marker = f"{folder}/{MARKER}"
            items.append(self._files("scores", folder, files, sorted(files, key=lambda key: key != marker)))
        for item in self._judge(items):
            marker = f"{item.name}/{MARKER}"
            if self._store.list(marker):
                self._data.add(str(_read(self._store.read(marker)).get("records")))

    def _trainings(self, made: dict[str, set[str | None]]) -> None:
        """Judge what runs left in MLflow and in the artifact store: of one training both go, or neither does.

        Args:
            made: The MLflow runs of each feed from which the versions came that stay.
        """
        files, others = self._run_files()
        for taxi, runs in made.items():
            self._trees(RunTrees(model_name(taxi), self._settings), runs, files)
        others += [part for parts in files.values() for part in parts]

        def pipeline(item: Item) -> str:
            return item.name.rpartition("/")[2].partition("-2")[0]

        for _, alike in groupby(sorted(others, key=pipeline), pipeline):
            self._judge(alike)

    def _trees(self, experiment: RunTrees, made: set[str | None], files: dict[str, list[Item]]) -> None:
        """Judge the trainings of a feed, each with its files, which are taken out of the others'."""
        trees: dict[str, RunTree] = {}
        items = []
        for tree in experiment:
            if tree.is_series:  # it has no end
                continue
            name = f"{tree.root.info.run_name} {tree.root.info.run_id}"
            item = Item("training", name, tree.last_change, partial(experiment.remove, tree))
            for part in (part for run in tree.run_ids for part in files.pop(run, ())):
                item = item.after(part)
            trees[name] = tree
            items.append(item)

        def needed(item: Item) -> str | None:
            return "a version that stays came from it" if trees[item.name].run_ids & made else None

        for item in self._judge(items, needed):
            self._data |= trees[item.name].data

    def _run_files(self) -> tuple[dict[str, list[Item]], list[Item]]:
        """The files of runs: those of a training by its run in MLflow, and those of others."""
        stores = [self._store]
        if self._settings.artifacts != str(self._settings.home):
            stores.append(FolderStore(self._settings.home))
        trainings: dict[str, list[Item]] = {}
        others = []
        for store in stores:
            for folder, files in _by_folder(store.find("runs/"), depth=2).items():
                if folder.startswith("runs/."):  # the locks of those that live
                    continue
                listing, decision = f"{folder}/{_LISTING}", f"{folder}/{_DECISION}"
                ordered = sorted(files, key=lambda key: (key != listing, key == decision))
                item = self._files("files of a run", f"{store.uri}/{folder}", files, ordered, store)
                run = _read(store.read(decision)).get("run_id") if decision in files else None
                if run:
                    trainings.setdefault(run, []).append(item)
                else:
                    others.append(item)
        return trainings, others

    def _snapshots(self) -> None:
        def needed(item: Item) -> str | None:
            digest = item.name.rpartition("/")[2].partition(".")[0]
            return "a version, a report or scores that stay were made by it" if digest in self._data else None

        snapshots = self._store.find("snapshots/").items()
        # Of what nobody needs not even the newest stay: a month can be ingested again.
        self._judge([self._files("snapshot", key, {key: stored}, [key]) for key, stored in snapshots], needed, keep=0)

    def _log(self) -> None:
        first = (self._now - timedelta(days=self._rule.log_days)).date()
        for day, files in sorted(stored_log.days(self._store).items()):
            item = self._files("day of the log", str(day), files, files)
            if day < first:
                self._found.going.append(item)
            else:
                self._found.staying.setdefault(item.kind, Counter())[f"of the last {self._rule.log_days} days"] += 1

    def _tasks(self) -> None:
        """What a step gave its workers, and would have removed had it not been killed."""
        for folder, files in _by_folder(self._store.find("workers/"), depth=2).items():
            item = self._files("task of workers", folder, files, files)
            if item.kept < self._now - _LONGEST_RUN:
                self._found.going.append(item)

    def _files(
        self, kind: str, name: str, files: dict[str, Stored], ordered: Iterable[str], store: Store | None = None
    ) -> Item:
        """Files of the artifact store as one thing, to be removed in an order."""
        size, kept = sum(file.size for file in files.values()), max(file.kept for file in files.values())
        return Item(kind, name, kept, partial(_remove, store or self._store, list(ordered)), size)


def _by_folder(files: dict[str, Stored], depth: int) -> dict[str, dict[str, Stored]]:
    """Files by the first parts of their keys, so many; without those that lie above."""
    found: dict[str, dict[str, Stored]] = {}
    for key, stored in files.items():
        parts = key.split("/")
        if len(parts) > depth:
            found.setdefault("/".join(parts[:depth]), {})[key] = stored
    return found


def _remove(store: Store, keys: Iterable[str]) -> None:
    for key in keys:
        store.delete(key)


def _read(text: bytes) -> dict[str, Any]:
    """An object of JSON; an empty one where it cannot be read."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}
