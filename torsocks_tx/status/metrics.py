"""``/metrics``: the report of ``report``, as Prometheus reads it.

Needs ``prometheus_client``, of the extra ``[metrics]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NEEDS_LIBRARY = "Metrics need prometheus_client: pip install 'torsocks_tx[metrics]'"

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""The kind of the text. OpenMetrics would not have both ``torsocks_streams``, the open ones, and
``torsocks_streams_total``."""


class NoLibrary(Exception):
    """``prometheus_client`` is not installed."""


@dataclass(frozen=True, slots=True)
class Collector:
    """The metrics of one report; ``core`` of ``prometheus_client`` has their kinds."""

    core: Any
    report: dict[str, Any]

    def collect(self) -> Iterator[Any]:
        """Yield all of them."""
        yield from self._of_listeners()
        yield from self._of_all()
        yield from self._of_tor()
        yield from self._of_processes()

    def _of_listeners(self) -> Iterator[Any]:
        listeners = self.report["listeners"]
        now = ("connections", "Clients that are connected."), ("streams", "Open streams.")
        for name, text in now:
            gauge = self.core.GaugeMetricFamily(f"torsocks_{name}", text, labels=["listener"])
            for each in listeners:
                gauge.add_metric([each["name"]], each[name])
            yield gauge
        totals = (
            ("connections", "protocol", "connections_total", "Connections, by protocol."),
            ("streams", "outcome", "outcomes", "Requests, by how they ended."),
        )
        for name, label, key, text in totals:
            counter = self.core.CounterMetricFamily(
                f"torsocks_{name}", text, labels=["listener", label]
            )
            for each in listeners:
                for value, count in each[key].items():
                    counter.add_metric([each["name"], value], count)
            yield counter

    def _of_all(self) -> Iterator[Any]:
        report = self.report
        text = "Seconds from a request to its open stream."
        histogram = self.core.HistogramMetricFamily(
            "torsocks_stream_open_seconds", text, labels=["destination"]
        )
        for kind, each in report["open_seconds"].items():
            buckets = [(str(float(bound)), count) for bound, count in each["buckets"]]
            histogram.add_metric([kind], [*buckets, ("+Inf", each["count"])], each["sum"])
        yield histogram
        text = "Bytes of streams."
        carried = self.core.CounterMetricFamily("torsocks_bytes", text, labels=["direction"])
        for direction, count in report["bytes"].items():
            carried.add_metric([direction], count)
        yield carried
        yield self._gauge(
            "lingering",
            "Open streams whose client will send no more.",
            sum(each["lingering"] for each in report["listeners"]),
        )
        text = "Bytes that came before streams were open."
        yield self._counter("early_data_bytes", text, report["early_data_bytes"])

    def _of_tor(self) -> Iterator[Any]:
        tors = self.report["tors"]
        if not tors:
            return
        several = ["tor"] if len(tors) > 1 else []
        gauge, counter = self.core.GaugeMetricFamily, self.core.CounterMetricFamily
        text = "Circuits that tor has built, by their purpose."
        circuits = gauge("torsocks_circuits", text, labels=["purpose", *several])
        up = gauge("torsocks_tor_up", "Whether tor can be used.", labels=several)
        text = "How far tor's start is."
        ratio = gauge("torsocks_tor_bootstrap_ratio", text, labels=several)
        text = "Control connections to tor after the first."
        again = counter("torsocks_control_reconnects", text, labels=several)
        for tor in tors:
            name = [tor["name"]] if several else []
            for purpose, count in Counter(each["purpose"] for each in tor["circuits"]).items():
                circuits.add_metric([purpose, *name], count)
            up.add_metric(name, int(tor["state"] == "ready"))
            ratio.add_metric(name, tor["bootstrap"]["percent"] / 100)
            again.add_metric(name, tor["reconnects"])
        yield from (circuits, up, ratio, again)

    def _of_processes(self) -> Iterator[Any]:
        report = self.report
        text = "Workers that were started in the place of others that had ended."
        yield self._counter("worker_restarts", text, report["worker_restarts"])
        if report["descriptors"]["open"] is not None:
            text = "Descriptors of the processes that serve."
            yield self._gauge("open_descriptors", text, report["descriptors"]["open"])
        build = self.core.GaugeMetricFamily(
            "torsocks_build_info", "The version.", labels=["version"]
        )
        build.add_metric([report["version"]], 1)
        yield build

    def _gauge(self, name: str, text: str, value: float) -> Any:
        return self.core.GaugeMetricFamily(f"torsocks_{name}", text, value=value)

    def _counter(self, name: str, text: str, value: float) -> Any:
        return self.core.CounterMetricFamily(f"torsocks_{name}", text, value=value)


def exposition(report: dict[str, Any]) -> str:
    """Return the metrics of a report as text. Raises ``NoLibrary``."""
    try:
        from prometheus_client import core, generate_latest
    except ImportError:
        raise NoLibrary(NEEDS_LIBRARY) from None
    return bytes(generate_latest(Collector(core, report))).decode()
