"""Live drift: whether what is asked these days, and what is answered, is like what the champion learned from.

The truth of a month comes two months late, and the log knows at once. Nothing is decided by this: riders who ask are
others than those who travel, and many ask by zones alone, which counts as a distance that is missing. So it is the
change of these figures that tells something, not their level.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.compute as pc

from tripcast.errors import InvalidRequest
from tripcast.jobs.judge import asked_trips, open_version
from tripcast.monitoring import drift
from tripcast.monitoring.drift import Drift
from tripcast.registry.registry import Registry
from tripcast.reports.live import live_report
from tripcast.serving.stored_log import read_log
from tripcast.settings import Settings
from tripcast.storage.store import open_store
from tripcast.taxi import model_name
from tripcast.taxi.bins import profile_trips
from tripcast.taxi.feeds import FEEDS

#: What is read of the log.
_LOGGED = ("pickup_datetime", "pickup_zone", "dropoff_zone", "trip_distance_miles", "duration_minutes")


def serving_taxis() -> list[str]:
    """The taxis whose models have a champion, in order.

    Raises:
        InvalidRequest: If there are none.
        TrackingError: If the registry cannot be reached.
    """
    settings = Settings.load()
    serving = [taxi for taxi in FEEDS if Registry(model_name(taxi), settings).traffic().champion]
    if not serving:
        raise InvalidRequest("No model serves, so nobody is answered: train one first.")
    return serving


def watch_live(taxi: str, days: int) -> tuple[Drift | None, str]:
    """Compare the champion's answers of the last days with its reference; keep a page, and publish the figures.

    Args:
        taxi: The feed's name, see ``tripcast.taxi.feeds.FEEDS``.
        days: How many, until now.

    Returns:
        The drift, None where the champion was asked nothing; and where the page is.

    Raises:
        InvalidRequest: If nothing serves, or the champion was registered without a reference.
        TrackingError: If the registry cannot be reached.
        StorageError: If the store cannot be.
    """
    settings = Settings.load()
    store, registry = open_store(settings.artifacts), Registry(model_name(taxi), settings)
    traffic = registry.traffic()
    if traffic.champion is None:
        raise InvalidRequest(f"No version of {registry.name} serves, so nobody is answered: train one first.")
    champion = open_version(registry, traffic.champion)
    if champion.profile is None:
        raise InvalidRequest(
            f"{registry.name} version {champion.number} was registered without a reference: train a version anew."
        )
    now = datetime.now(UTC)
    answered = (pc.field("model") == registry.name) & (pc.field("version") == champion.number)
    log = read_log(store, now - timedelta(days=days), now, answered, _LOGGED)
    shift = None
    if len(log):
        asked = profile_trips([asked_trips(log)], [log["duration_minutes"].to_numpy()])
        shift = drift.compare(champion.profile, asked)
    page = live_report(FEEDS[taxi].title, champion.number, days, f"{now:%Y-%m-%d %H:%M} UTC", shift)
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "report.html"
        file.write_text(page, encoding="utf-8")
        uri = store.put(file, f"live/{taxi}/report.html", "text/html; charset=utf-8")
    measured = {f"psi.{feature}": psi for feature, psi in shift.psi.items()} if shift else {}
    registry.publish("live", {**measured, "trips": len(log), "looked_at": now.timestamp()})
    return shift, uri
