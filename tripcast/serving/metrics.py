"""The service's metrics, for Prometheus: plain numbers while requests run, turned into families when they are scraped.

``prometheus_client``'s own counters take a lock and several calls for each increment, which a prediction of some
microseconds would feel.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from tripcast.prediction_log import PredictionLog
    from tripcast.serving.service import Service

#: Upper bounds of the latency histogram's buckets, seconds.
LATENCY_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass
class Metrics:
    """What the service counts.

    Attributes:
        requests: By route and status.
        latencies: By route, requests in each bucket, the last one above all bounds; and their sum in seconds.
        predictions: By version and arm.
        swaps: How often other versions, or another share, took over.
        refused: Versions that were not let into service, by version.
        challenger_failures: Answers that the champion gave in the challenger's place, by the challenger's version.
        follower_restarts: How often the follower was started again.
        follower_failures: Polls that ended with an error.
        last_poll: When a poll last ended well, seconds since 1970; the start of the service before that.
    """

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    latencies: dict[str, list[int]] = field(default_factory=dict)
    latency_sums: Counter[str] = field(default_factory=Counter)
    predictions: Counter[tuple[int, str]] = field(default_factory=Counter)
    swaps: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    challenger_failures: Counter[int] = field(default_factory=Counter)
    follower_restarts: int = 0
    follower_failures: int = 0
    last_poll: float = field(default_factory=time.time)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests[route, status] += 1
        buckets = self.latencies.get(route)
        if buckets is None:
            buckets = self.latencies[route] = [0] * (len(LATENCY_BOUNDS) + 1)
        buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.latency_sums[route] += seconds  # type: ignore[assignment]


class ServiceCollector(Collector):
    """Reads the numbers when Prometheus asks.

    Args:
        service: Counts, and knows who answers.
        log: Counts what it logs.
    """

    def __init__(self, service: Service, log: PredictionLog) -> None:
        self._service = service
        self._metrics = service.metrics
        self._log_counts = log.counts

    def collect(self) -> Iterator[Metric]:
        """The families of all metrics."""
        metrics = self._metrics
        requests = CounterMetricFamily("tripcast_requests", "Requests that were answered.", labels=["route", "status"])
        for (route, status), count in metrics.requests.items():
            requests.add_metric([route, str(status)], count)
        yield requests

        latency = HistogramMetricFamily(
            "tripcast_request_seconds", "From the request's headers to the end of its answer.", labels=["route"]
        )
        for route, counts in metrics.latencies.items():
            total, buckets = 0, []
            for bound, count in zip([*map(str, LATENCY_BOUNDS), "+Inf"], counts, strict=True):
                total += count
                buckets.append((bound, total))
            latency.add_metric([route], buckets, metrics.latency_sums[route])
        yield latency

        predictions = CounterMetricFamily("tripcast_predictions", "Trips predicted.", labels=["version", "arm"])
        for (version, arm), count in metrics.predictions.items():
            predictions.add_metric([str(version), arm], count)
        yield predictions

        yield from self._models()
        yield from self._log()
        yield CounterMetricFamily(
            "tripcast_follower_restarts",
            "How often the follower of the registry was started again.",
            value=metrics.follower_restarts,
        )
        yield CounterMetricFamily(
            "tripcast_follower_failures",
            "Polls of the registry that ended with an error.",
            value=metrics.follower_failures,
        )
        yield GaugeMetricFamily(
            "tripcast_follower_last_poll_age_seconds",
            "Since the registry last answered, or the service started.",
            value=time.time() - metrics.last_poll,
        )

    def _models(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield CounterMetricFamily(
            "tripcast_swaps", "How often other versions, or another share, took over.", value=metrics.swaps
        )
        refused = CounterMetricFamily(
            "tripcast_refused_versions",
            "Attempts to serve a version that cannot be loaded or fails on a known trip.",
            labels=["version"],
        )
        for version, count in metrics.refused.items():
            refused.add_metric([str(version)], count)
        yield refused
        failures = CounterMetricFamily(
            "tripcast_challenger_failures",
            "Answers that the champion gave because the challenger failed.",
            labels=["version"],
        )
        for version, count in metrics.challenger_failures.items():
            failures.add_metric([str(version)], count)
        yield failures
        info = GaugeMetricFamily(
            "tripcast_model_info", "The models that answer.", labels=["arm", "version", "candidate", "digest"]
        )
        share = GaugeMetricFamily("tripcast_share", "Share of the riders that an arm answers.", labels=["arm"])
        if self._service.is_ready:
            arms = self._service.arms
            for arm, part in zip(arms.all, (1.0 - arms.share, arms.share), strict=False):
                info.add_metric([arm.name, str(arm.version), arm.model.manifest.candidate, arm.model.digest], 1)
                share.add_metric([arm.name], part)
        yield info
        yield share

    def _log(self) -> Iterator[Metric]:
        counts = self._log_counts()
        for name, value, meaning in (
            ("appended", counts.appended, "Predictions handed to the log."),
            ("written", counts.written, "Predictions that the log has stored."),
            ("dropped", counts.dropped, "Predictions that the log gave up, for want of room."),
        ):
            yield CounterMetricFamily(f"tripcast_prediction_log_{name}", meaning, value=value)
        yield GaugeMetricFamily(
            "tripcast_prediction_log_pending", "Predictions that wait to be stored.", value=counts.pending
        )


class Scrape:
    """The text that Prometheus reads.

    Args:
        collector: Reads the service's numbers.
    """

    def __init__(self, collector: ServiceCollector) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
