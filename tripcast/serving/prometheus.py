"""The service's metrics as Prometheus reads them: families made of the plain numbers when they are scraped."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tripcast.serving.metrics import LATENCY_BOUNDS, Latencies
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
        self._log_counts = log.counts

    def collect(self) -> Iterator[Metric]:
        """The families of all metrics."""
        metrics = self._service.metrics
        yield from self._requests()
        predictions = CounterMetricFamily(
            "tripcast_predictions", "Trips predicted.", labels=["model", "version", "arm"]
        )
        for (model, version, arm), count in metrics.predictions.items():
            predictions.add_metric([model, str(version), arm], count)
        yield predictions
        yield from self._models()
        yield from self._arms()
        yield from self._log()
        yield CounterMetricFamily(
            "tripcast_poller_restarts",
            "How often the poller of the registry was started again.",
            value=metrics.poller_restarts,
        )

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "tripcast_requests", "Requests that were answered.", labels=["model", "route", "status"]
        )
        by_model: defaultdict[tuple[str, str], list[Latencies]] = defaultdict(list)
        for (route, model, status), latencies in self._service.metrics.requests.items():
            requests.add_metric([model, route, str(status)], sum(latencies.buckets))
            by_model[model, route].append(latencies)
        yield requests
        latency = HistogramMetricFamily(
            "tripcast_request_seconds",
            "From the request's headers to the end of its answer.",
            labels=["model", "route"],
        )
        bounds = [*map(str, LATENCY_BOUNDS), "+Inf"]
        for labels, by_status in by_model.items():
            counts = accumulate(map(sum, zip(*(latencies.buckets for latencies in by_status), strict=True)))
            seconds = sum(latencies.seconds for latencies in by_status)
            latency.add_metric(labels, list(zip(bounds, counts, strict=True)), seconds)
        yield latency

    def _models(self) -> Iterator[Metric]:
        swaps = CounterMetricFamily(
            "tripcast_swaps", "How often other versions, or another share, took over.", labels=["model"]
        )
        refused = CounterMetricFamily(
            "tripcast_refused_versions", "Attempts to load a version that failed.", labels=["model", "version"]
        )
        challenger_failures = CounterMetricFamily(
            "tripcast_challenger_failures",
            "Answers that the champion gave because the challenger failed.",
            labels=["model", "version"],
        )
        figures = GaugeMetricFamily(
            "tripcast_figure", "What pipelines and jobs last measured of the model.", labels=["model", "source", "name"]
        )
        poller_failures = CounterMetricFamily(
            "tripcast_poller_failures", "Polls of the registry that ended with an error.", labels=["model"]
        )
        last_poll = GaugeMetricFamily(
            "tripcast_poller_last_poll_age_seconds",
            "Since the registry last answered, or the service started.",
            labels=["model"],
        )
        for model in self._service.models.values():
            counted = model.metrics
            swaps.add_metric([model.name], counted.swaps)
            for family, counts in ((refused, counted.refused), (challenger_failures, counted.challenger_failures)):
                for version, count in counts.items():
                    family.add_metric([model.name, str(version)], count)
            for source, measured in counted.figures.items():
                for name, value in measured.items():
                    figures.add_metric([model.name, source, name], value)
            poller_failures.add_metric([model.name], counted.poller_failures)
            last_poll.add_metric([model.name], time.monotonic() - counted.last_poll)
        yield from (swaps, refused, challenger_failures, figures, poller_failures, last_poll)

    def _arms(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "tripcast_model_info", "The models that answer.", labels=["model", "arm", "version", "candidate", "digest"]
        )
        share = GaugeMetricFamily("tripcast_share", "Share of the riders that an arm answers.", labels=["model", "arm"])
        month_end = GaugeMetricFamily(
            "tripcast_model_month_end_seconds",
            "End of the latest month that a model has learned from or was judged on, since 1970.",
            labels=["model", "arm"],
        )
        for model in self._service.models.values():
            if model.is_ready:
                arms = model.arms
                for arm, part in zip(arms.all, (1.0 - arms.share, arms.share), strict=False):
                    labels = [model.name, arm.name]
                    info.add_metric([*labels, str(arm.version), arm.model.manifest.candidate, arm.model.digest], 1)
                    share.add_metric(labels, part)
                    month_end.add_metric(labels, arm.month_end)
        yield from (info, share, month_end)

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
