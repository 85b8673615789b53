"""``/metrics``: the report of ``report``, as Prometheus reads it.

Needs ``prometheus_client``, of the extra ``[metrics]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NEEDS_LIBRARY = "Metrics need prometheus_client: pip install 'torsocks_tx[metrics]'"

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""The kind of the text. OpenMetrics would not have both ``torsocks_streams``, the open ones, and
``torsocks_streams_total``."""


class NoLibrary(Exception):
    """``prometheus_client`` is not installed."""


Family = tuple[str, str, Sequence[str], Mapping[Any, float]]
"""A name, a text, the names of labels, and the values by those of the labels.

It is a counter if its name says that it is a total, and else a gauge.
"""


@dataclass(frozen=True, slots=True)
class Collector:
    """The metrics of one report; ``core`` of ``prometheus_client`` has their kinds."""

    core: Any
    report: dict[str, Any]

    def collect(self) -> Iterator[Any]:
        """Yield all of them."""
        for families in (_of_listeners, _of_streams, _of_tors, _of_processes):
            for name, text, labels, values in families(self.report):
                is_total = name.endswith("_total")
                kind = self.core.CounterMetricFamily if is_total else self.core.GaugeMetricFamily
                metric = kind(f"torsocks_{name}", text, labels=labels)
                for of, value in values.items():
                    metric.add_metric(of, value)
                yield metric
        text = "Seconds from a request to its open stream."
        histogram = self.core.HistogramMetricFamily(
            "torsocks_stream_open_seconds", text, labels=["destination"]
        )
        for destination, each in self.report["open_seconds"].items():
            buckets = [(str(float(bound)), count) for bound, count in each["buckets"]]
            histogram.add_metric([destination], [*buckets, ("+Inf", each["count"])], each["sum"])
        yield histogram


def _of_listeners(report: dict[str, Any]) -> Iterator[Family]:
    listeners = {each["name"]: each for each in report["listeners"]}
    for key, text in (("connections", "Clients that are connected."), ("streams", "Open streams.")):
        yield key, text, ["listener"], {(name,): it[key] for name, it in listeners.items()}
    for key, label, found, text in (
        ("connections_total", "protocol", "connections_total", "Connections, by protocol."),
        ("streams_total", "outcome", "outcomes", "Requests, by how they ended."),
    ):
        totals = {(name, value): number for name, it in listeners.items()
                  for value, number in it[found].items()}  # fmt: skip
        yield key, text, ["listener", label], totals


def _of_streams(report: dict[str, Any]) -> Iterator[Family]:
    carried = {(direction,): number for direction, number in report["bytes"].items()}
    yield "bytes_total", "Bytes of streams.", ["direction"], carried
    lingering = sum(each["lingering"] for each in report["listeners"])
    yield "lingering", "Open streams whose client will send no more.", [], {(): lingering}
    text = "Bytes that came before streams were open."
    yield "early_data_bytes_total", text, [], {(): report["early_data_bytes"]}


def _of_tors(report: dict[str, Any]) -> Iterator[Family]:
    if not report["tors"]:
        return
    labels = ["tor"] if len(report["tors"]) > 1 else []
    tors = {(each["name"],) if labels else (): each for each in report["tors"]}
    circuits = Counter(
        (it["purpose"], *name) for name, tor in tors.items() for it in tor["circuits"]
    )
    text = "Circuits that tor has built, by their purpose."
    yield "circuits", text, ["purpose", *labels], circuits
    up = {name: int(tor["state"] == "ready") for name, tor in tors.items()}
    yield "tor_up", "Whether tor can be used.", labels, up
    start = {name: tor["bootstrap"]["percent"] / 100 for name, tor in tors.items()}
    yield "tor_bootstrap_ratio", "How far tor's start is.", labels, start
    again = {name: tor["reconnects"] for name, tor in tors.items()}
    text = "Control connections to tor after the first."
    yield "control_reconnects_total", text, labels, again


def _of_processes(report: dict[str, Any]) -> Iterator[Family]:
    text = "Workers that were started in the place of others that had ended."
    yield "worker_restarts_total", text, [], {(): report["worker_restarts"]}
    if report["descriptors"]["open"] is not None:
        text = "Descriptors of the processes that serve."
        yield "open_descriptors", text, [], {(): report["descriptors"]["open"]}
    yield "build_info", "The version.", ["version"], {(report["version"],): 1}


def exposition(report: dict[str, Any]) -> str:
    """Return the metrics of a report as text. Raises ``NoLibrary``."""
    try:
        from prometheus_client import core, generate_latest
    except ImportError:
        raise NoLibrary(NEEDS_LIBRARY) from None
    return bytes(generate_latest(Collector(core, report))).decode()
