"""The service's metrics as Prometheus reads them: families made of the plain numbers when they are scraped."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from tripcast.serving.metrics import LATENCY_BOUNDS
from tripcast.serving.prediction_log import PredictionLog
from tripcast.serving.service import Service


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
        for (_, version, arm), count in metrics.predictions.items():
            predictions.add_metric([str(version), arm], count)
        yield predictions

        yield from self._models()
        yield from self._log()
        yield CounterMetricFamily(
            "tripcast_poller_restarts",
            "How often the poller of the registry was started again.",
            value=metrics.poller_restarts,
        )
        yield CounterMetricFamily(
            "tripcast_poller_failures",
            "Polls of the registry that ended with an error.",
            value=metrics.poller_failures,
        )
        yield GaugeMetricFamily(
            "tripcast_poller_last_poll_age_seconds",
            "Since the registry last answered, or the service started.",
            value=time.monotonic() - metrics.last_poll,
        )

    def _models(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield CounterMetricFamily(
            "tripcast_swaps", "How often other versions, or another share, took over.", value=metrics.swaps
        )
        refused = CounterMetricFamily(
            "tripcast_refused_versions",
            "Attempts to load a version that failed.",
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
        month_end = GaugeMetricFamily(
            "tripcast_model_month_end_seconds",
            "End of the latest month that a model has learned from or was judged on, since 1970.",
            labels=["arm"],
        )
        if self._service.is_ready:
            arms = self._service.arms
            for arm, part in zip(arms.all, (1.0 - arms.share, arms.share), strict=False):
                info.add_metric([arm.name, str(arm.version), arm.model.manifest.candidate, arm.model.digest], 1)
                share.add_metric([arm.name], part)
                month_end.add_metric([arm.name], arm.month_end)
        yield info
        yield share
        yield month_end
        figures = GaugeMetricFamily(
            "tripcast_figure", "What pipelines and jobs last measured of the model.", labels=["source", "name"]
        )
        for source, measured in self._metrics.figures.items():
            for name, value in measured.items():
                figures.add_metric([source, name], value)
        yield figures

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
