"""Counters for /metrics, in Prometheus's text form. Labels are never a user's text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from everloop.engine.interface import EngineStatus
from everloop.server.context import Record

disable_created_metrics()  # type: ignore[no-untyped-call]  # a timestamp beside every number says nothing here

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One server's numbers. `engines` gives the status of every loaded engine, by model."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, engines: Callable[[], Mapping[str, EngineStatus]]) -> None:
        self._registry = CollectorRegistry()
        self._requests = _Labelled(
            Counter(
                "everloop_requests",
                "Requests answered, by route and status (499: the client left).",
                ("route", "status"),
                registry=self._registry,
            )
        )
        self._seconds = _Labelled(
            Histogram(
                "everloop_request_seconds",
                "From a request's head to its last byte.",
                ("route",),
                buckets=_SECONDS,
                registry=self._registry,
            )
        )
        self._first = _Labelled(
            Histogram(
                "everloop_first_output_seconds",
                "From a request's head to the engine's first output.",
                ("model",),
                buckets=_SECONDS,
                registry=self._registry,
            )
        )
        self._tokens = _Labelled(
            Counter(
                "everloop_tokens",
                "Tokens read (prompt) and written (completion).",
                ("model", "kind"),
                registry=self._registry,
            )
        )
        self.in_progress = Gauge(
            "everloop_requests_in_progress", "Requests being answered.", registry=self._registry
        )
        self._registry.register(_Engines(engines))

    def record(self, record: Record, route: str, status: int) -> None:
        """Counts one finished request."""
        self._requests[route, str(status)].inc()
        self._seconds[(route,)].observe(record.took())
        if record.model is None:
            return
        if record.first is not None:
            self._first[(record.model,)].observe(record.first)
        if record.usage is not None:
            self._tokens[record.model, "prompt"].inc(record.usage.prompt_tokens)
            self._tokens[record.model, "completion"].inc(record.usage.completion_tokens)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Labelled(dict[tuple[str, ...], Any]):
    """A metric's children by their labels. The metric finds them too, but slowly."""

    def __init__(self, metric: Counter | Histogram) -> None:
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> Any:
        child = self[labels] = self._metric.labels(*labels)
        return child


class _Engines(Collector):
    """Asks the engines at the moment of the scrape."""

    def __init__(self, engines: Callable[[], Mapping[str, EngineStatus]]) -> None:
        self._engines = engines

    def collect(self) -> Iterable[Metric]:
        statuses = self._engines()
        for name, help, read in (
            ("ready", "1 if the engine answers.", lambda s: int(s.ready)),
            ("running", "Requests being computed.", lambda s: s.running),
            ("waiting", "Requests in the queue.", lambda s: s.waiting),
            ("restarts", "Times the engine was started again.", lambda s: s.restarts),
            ("kv_blocks_used", "Cache blocks in use.", lambda s: s.kv_blocks_used),
            ("kv_blocks_total", "Cache blocks.", lambda s: s.kv_blocks_total),
        ):
            family = GaugeMetricFamily(f"everloop_engine_{name}", help, labels=["model"])
            for model, status in statuses.items():
                family.add_metric([model], read(status))
            yield family
