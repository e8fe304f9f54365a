"""The canary: a version answers some of the riders for minutes, and the health of the service decides whether it stays.

That it predicts well has been judged on a month of trips. What no trip of the past can say is whether the service is
well with it: errors, latency, and predictions that are sane beside the champion's. No truth is waited for.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import date
from typing import Any

import requests

from tripcast.taxi import taxi_of

#: Seconds between two looks at the service.
_PAUSE = 2.0

#: Seconds that the service may take to answer.
_TIMEOUT = 10.0

#: Trips on which the version is asked beside the champion, as zones: within Manhattan, to an airport, across Queens, in
#: the Bronx and in Brooklyn.
_TRIPS = ((74, 41), (166, 138), (129, 260), (119, 168), (97, 181))

#: Between these multiples of the champion's prediction one is sane.
_SANE = (1 / 3, 3.0)

#: The most requests that may end as errors of the service, as a share.
_MAX_ERRORS = 0.01

#: How many times as long as before a request may take, and the milliseconds up to which nobody minds.
_MAX_SLOWDOWN, _QUICK_MS = 3.0, 50.0

_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)


def trouble_with(service_url: str, model: str, version: int, minutes: float) -> str | None:
    """Watch a service in which the challenger of a model is the version. What becomes of other models does not count.

    Args:
        service_url: Where it answers.
        model: The registered model's name.
        version: The challenger.
        minutes: How long.

    Returns:
        What is wrong, as a sentence, as soon as something is; None if the service was well all the time.
    """
    with requests.Session() as session:
        try:
            before = _counters(session, service_url, model)
            deadline = time.monotonic() + 60 * minutes
            while True:
                trouble = _insane(session, service_url, model, version) or _unwell(
                    before, _counters(session, service_url, model), version
                )
                if trouble or time.monotonic() >= deadline:
                    return trouble
                time.sleep(_PAUSE)
        except requests.RequestException as error:
            return f"the service does not answer ({error})."


def _insane(session: requests.Session, service_url: str, model: str, version: int) -> str | None:
    """Whether the predictions of the challenger are far from the champion's on any of the trips."""
    query: dict[str, Any] = {"taxi": taxi_of(model), "date": date.today().isoformat()}
    for pickup, dropoff in _TRIPS:
        query |= {"pickup_zone": pickup, "dropoff_zone": dropoff}
        answer = session.get(f"{service_url}/explore", params=query, timeout=_TIMEOUT)
        answer.raise_for_status()
        arms = answer.json()["arms"]
        if "challenger" not in arms:
            return f"version {version} predicts nothing from zone {pickup} to zone {dropoff}."
        for champion, challenger in zip(arms["champion"]["minutes"], arms["challenger"]["minutes"], strict=True):
            if not _SANE[0] <= challenger / champion <= _SANE[1]:
                return (
                    f"version {version} predicts {challenger:.1f} minutes from zone {pickup} to zone {dropoff}, "
                    f"and the champion {champion:.1f}."
                )
    return None


def _unwell(before: Counter[str], now: Counter[str], version: int) -> str | None:
    """Whether the counters of the model have grown as they must not."""
    grown = Counter({name: now[name] - before[name] for name in now})
    if (failures := grown[f'tripcast_challenger_failures_total{{version="{version}"}}']) > 0:
        return f"version {version} failed {failures:.0f} times, and the champion answered in its place."
    requests_seen = {name: count for name, count in grown.items() if name.startswith("tripcast_requests_total")}
    errors = sum(count for name, count in requests_seen.items() if 'status="5' in name)
    if errors > _MAX_ERRORS * sum(requests_seen.values()):
        return f"{errors:.0f} of {sum(requests_seen.values()):.0f} requests ended as errors of the service."
    slow, usual = (_milliseconds(counters) for counters in (grown, before))
    if slow > max(_QUICK_MS, _MAX_SLOWDOWN * usual):
        return f"a prediction takes {slow:.0f} milliseconds, and took {usual:.0f} before."
    return None


def _milliseconds(counters: Counter[str]) -> float:
    """How long a request for a prediction took."""
    label = '{route="/predict"}'
    count = counters[f"tripcast_request_seconds_count{label}"]
    return 1000 * counters[f"tripcast_request_seconds_sum{label}"] / count if count else 0.0


def _counters(session: requests.Session, service_url: str, model: str) -> Counter[str]:
    """The counters of a model, without the label that names it."""
    answer = session.get(f"{service_url}/metrics", timeout=_TIMEOUT)
    answer.raise_for_status()
    own = f'model="{model}",'
    return Counter(
        {
            f"{name}{{{labels.replace(own, '')}}}": float(value)
            for name, labels, value in _SAMPLE.findall(answer.text)
            if own in labels
        }
    )
