"""The page of live drift: what is asked these days beside what the champion learned from."""

from __future__ import annotations

from tripcast.monitoring.drift import Drift
from tripcast.reports.page import render


def live_report(subject: str, version: int, days: int, created: str, drift: Drift | None) -> str:
    """The page as HTML.

    Args:
        subject: What is predicted, for people: for example ``green taxi``.
        version: The champion's.
        days: How many days of the log.
        created: When, for people.
        drift: Of what was asked; None where nothing was.
    """
    features = sorted(drift.features, key=lambda part: -part.psi) if drift else []
    return render(
        "live.html", subject=subject, version=version, days=days, created=created, drift=drift, features=features
    )
