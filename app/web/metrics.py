"""Prometheus metrics: what this process has served, and what the database says of the jobs at the moment of a scrape.

Several web processes (`tastemaker serve --workers N`) share their counts through `prometheus_client`'s multiprocess
files: any process answers for all.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.queries import metrics as queries
from app.db.queries import workers as worker_queries
from app.domain.enums import JobKind, JobStatus, WorkQueue
from app.domain.errors import UnavailableError
from app.services import workers
from app.web.route_names import UNMATCHED, route_of
from app.web.state import AppState

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_HTTP_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_VOTE_BOUNDS = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_JOB_BOUNDS = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 4 * 3600, 12 * 3600, 24 * 3600)
_USAGE: tuple[tuple[str, str, str, Callable[[Sequence[float]], float]], ...] = (
    ("tastemaker_worker_cpu_percent", "Processor use of a worker's jobs, in percent of a core.", "cpu_percent", sum),
    ("tastemaker_worker_memory_bytes", "Main memory that a worker's jobs hold.", "memory_bytes", sum),
    ("tastemaker_worker_gpu_percent", "Use of the GPU of a worker with jobs.", "gpu_percent", max),
    ("tastemaker_worker_gpu_memory_bytes", "Memory in use on the GPU of a worker with jobs.", "gpu_memory_bytes", max),
)
_VOTES = frozenset({("PUT", "/api/v1/comparisons/{comparison_id}/preference"), ("POST", "/rate/{campaign_id}/vote")})


class Metrics:
    """The counters of one application and the registry that a scrape reads."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._own = CollectorRegistry()
        self.http = Histogram(
            "tastemaker_http_request_seconds",
            "Time to answer, by route; event streams are left out.",
            ("method", "route", "status"),
            buckets=_HTTP_BOUNDS,
            registry=self._own,
        )
        self.votes = Histogram(
            "tastemaker_vote_seconds",
            "Time to record an accepted vote.",
            buckets=_VOTE_BOUNDS,
            registry=self._own,
        )
        self.votes_total = Counter("tastemaker_votes", "Votes accepted, changed ones again.", registry=self._own)
        self.open_streams = Gauge(
            "tastemaker_event_streams_open",
            "Server-sent event streams that are open.",
            multiprocess_mode="livesum",
            registry=self._own,
        )

    def render(self) -> bytes:
        """Everything in Prometheus's text format."""
        registry = CollectorRegistry()
        registry.register(_JobsCollector(self._state))
        if MULTIPROCESS_VARIABLE in os.environ:
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        return generate_latest(self._own) + generate_latest(registry)


class _JobsCollector(Collector):
    """Reads the jobs; every process would answer alike."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        now = self._state.clock.now()
        with self._state.database.reader() as session:
            counts = queries.job_counts(session)
            durations = queries.job_durations(session, _JOB_BOUNDS)
            oldest = queries.oldest_queued(session)
            heartbeats = queries.last_heartbeats(session)
            there = workers.list_workers(session, now)
            in_line = worker_queries.waiting_by_queue(session)
            usage = queries.last_usage(session)
        jobs = GaugeMetricFamily("tastemaker_jobs", "Jobs by kind and status.", labels=("kind", "status"))
        for kind in JobKind:
            for status in JobStatus:
                jobs.add_metric((kind.value, status.value), counts.get((kind, status), 0))
        yield jobs
        waited = (now - oldest).total_seconds() if oldest is not None else 0.0
        yield GaugeMetricFamily(
            "tastemaker_oldest_queued_job_seconds", "How long the oldest queued job has waited.", value=waited
        )
        ages = GaugeMetricFamily(
            "tastemaker_heartbeat_age_seconds", "Age of the last heartbeat of a worker's job.", labels=("worker",)
        )
        for worker, moment in heartbeats.items():
            ages.add_metric((worker,), (now - moment).total_seconds())
        yield ages
        serving = GaugeMetricFamily("tastemaker_workers", "Workers that are there, by queue.", labels=("queue",))
        depth = GaugeMetricFamily("tastemaker_queued_jobs", "Jobs that wait, by queue.", labels=("queue",))
        for queue in WorkQueue:
            ready = [worker for worker in there if worker.is_there and worker.refusal is None]
            serving.add_metric((queue.value,), sum(queue in worker.queues for worker in ready))
            depth.add_metric((queue.value,), in_line.get(queue, 0))
        yield serving
        yield depth
        yield from _usage(usage)
        seconds = HistogramMetricFamily(
            "tastemaker_job_seconds", "How long finished jobs ran in their last attempt.", labels=("kind", "status")
        )
        for row in durations:
            buckets = [(str(float(bound)), float(n)) for bound, n in zip(_JOB_BOUNDS, row.at_most, strict=True)]
            seconds.add_metric(
                (row.kind.value, row.status.value), [*buckets, ("+Inf", float(row.n))], row.total_seconds
            )
        yield seconds
        yield from self._broker()

    def _broker(self) -> Iterable[Metric]:
        try:
            waiting: dict[WorkQueue, int] | None = self._state.queue.waiting()
        except UnavailableError:
            waiting = None
        yield GaugeMetricFamily(
            "tastemaker_broker_up", "Whether the broker answers.", value=0 if waiting is None else 1
        )
        if waiting is not None:
            messages = GaugeMetricFamily(
                "tastemaker_broker_messages", "Messages that no worker has taken yet.", labels=("queue",)
            )
            for queue, n in waiting.items():
                messages.add_metric((queue.value,), n)
            yield messages


def _usage(usage: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterable[Metric]:
    """Sums over the jobs that a worker runs; of the GPU, which they share, the most."""
    for name, text, field, together in _USAGE:
        by_worker: dict[str, list[float]] = {}
        for worker, payload in usage:
            if payload.get(field) is not None:
                by_worker.setdefault(worker, []).append(float(payload[field]))
        family = GaugeMetricFamily(name, text, labels=("worker",))
        for worker, values in by_worker.items():
            family.add_metric((worker,), together(values))
        yield family


def install_metrics(app: FastAPI, state: AppState) -> None:
    metrics = Metrics(state)
    app.state.metrics = metrics
    app.add_middleware(_MetricsMiddleware, metrics=metrics)


class _MetricsMiddleware:
    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, is_stream = 500, False

        async def watch(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                is_stream = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
                if is_stream:
                    self._metrics.open_streams.inc()
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            if is_stream:
                self._metrics.open_streams.dec()
            else:
                self._observe(scope, status, time.perf_counter() - began)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        route, method = route_of(scope), scope["method"]
        if route == UNMATCHED:
            method = "any"  # the method may be anything that a client makes up
        self._metrics.http.labels(method, route, str(status)).observe(seconds)
        if (method, route) in _VOTES and status < 400:
            self._metrics.votes.observe(seconds)
            self._metrics.votes_total.inc()
