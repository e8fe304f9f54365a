"""What the service counts, in plain numbers while requests run; ``prometheus.py`` turns them into Prometheus' families.

``prometheus_client``'s own counters take a lock and several calls for each increment, which a prediction of some
microseconds would feel.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from tripcast.serving.prediction_rows import Answerer

#: Upper bounds of the latency histogram's buckets, seconds.
LATENCY_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(slots=True)
class Latencies:
    """How long some requests took.

    Attributes:
        buckets: How many are within each bound, the last one above all bounds.
        seconds: Their sum.
    """

    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    seconds: float = 0.0


@dataclass
class Metrics:
    """What the service counts of all models.

    Attributes:
        requests: By route, registered model ("" where none was asked for), and status.
        predictions: By who answered.
        poller_restarts: How often the poller was started again.
    """

    requests: defaultdict[tuple[str, str, int], Latencies] = field(default_factory=lambda: defaultdict(Latencies))
    predictions: Counter[Answerer] = field(default_factory=Counter)
    poller_restarts: int = 0

    def observe(self, route: str, model: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        latencies = self.requests[route, model, status]
        latencies.buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        latencies.seconds += seconds


@dataclass
class ModelMetrics:
    """What the service counts of one registered model.

    Attributes:
        swaps: How often other versions, or another share, took over.
        refused: Versions that were not let into service, by version.
        challenger_failures: Answers that the champion gave in the challenger's place, by the challenger's version.
        poller_failures: Polls that ended with an error.
        figures: What was last measured of the model, by source and name (``Registry.publish``).
        last_poll: When the registry last answered, by the monotonic clock; the start of the service before that.
    """

    swaps: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    challenger_failures: Counter[int] = field(default_factory=Counter)
    poller_failures: int = 0
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    last_poll: float = field(default_factory=time.monotonic)
