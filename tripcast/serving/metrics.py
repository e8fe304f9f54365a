"""What the service counts, in plain numbers while requests run; ``prometheus.py`` turns them into Prometheus' families.

``prometheus_client``'s own counters take a lock and several calls for each increment, which a prediction of some
microseconds would feel.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tripcast.serving.prediction_rows import Answerer

#: Upper bounds of the latency histogram's buckets, seconds.
LATENCY_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass
class Metrics:
    """What the service counts.

    Attributes:
        requests: By route and status.
        latencies: By route, requests in each bucket, the last one above all bounds; and their sum in seconds.
        predictions: By who answered.
        swaps: How often other versions, or another share, took over.
        refused: Versions that were not let into service, by version.
        challenger_failures: Answers that the champion gave in the challenger's place, by the challenger's version.
        poller_restarts: How often the poller was started again.
        poller_failures: Polls that ended with an error.
        figures: What was last measured of the model, by source and name (``Registry.publish``).
        last_poll: When a poll last ended well, by the monotonic clock; the start of the service before that.
    """

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    latencies: dict[str, list[int]] = field(default_factory=dict)
    latency_sums: Counter[str] = field(default_factory=Counter)
    predictions: Counter[Answerer] = field(default_factory=Counter)
    swaps: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    challenger_failures: Counter[int] = field(default_factory=Counter)
    poller_restarts: int = 0
    poller_failures: int = 0
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    last_poll: float = field(default_factory=time.monotonic)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests[route, status] += 1
        buckets = self.latencies.get(route)
        if buckets is None:
            buckets = self.latencies[route] = [0] * (len(LATENCY_BOUNDS) + 1)
        buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.latency_sums[route] += seconds  # type: ignore[assignment]
