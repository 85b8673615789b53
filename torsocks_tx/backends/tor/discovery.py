"""Finding the SocksPorts of a running tor by its control port, and trying which can be reached.

Only asks: tor's configuration is never changed. Which port is the best is decided in
:mod:`torsocks_tx.backends.tor.socks_ports`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.paths import printable
from torsocks_tx.backends.tor.socks_ports import (
    Place,
    SocksListener,
    choose,
    complaints,
    parse_config,
    parse_flags,
    parse_listeners,
    seen_from_here,
    with_flags,
)
from torsocks_tx.backends.tor.supply import NoSuchPort, SocksPort

PROBE_TIMEOUT = 5.0
"""Seconds to see whether a SocksPort takes connections; on this machine it is under one."""

_NONE = frozenset[str]()


class NoSocksPort(Exception):
    """The tor has no SocksPort that we can use; the text says why and what to do."""


class PortTable:
    """The usable SocksPorts of one tor."""

    def __init__(self, reactor: Any, listeners: Sequence[SocksListener], pipelined: bool) -> None:
        self._listeners = tuple(listeners)
        self._pipelined = pipelined
        self._chosen: dict[tuple[str, ...], SocksPort] = {}
        self._endpoints = {
            listener.place: endpoint_at(reactor, listener.place) for listener in listeners
        }

    def best(self) -> SocksListener | None:
        """Return the port for clients without wishes."""
        return choose(self._listeners, _NONE)

    def port_for(self, flags: Iterable[str]) -> SocksPort:
        """Return the best port with these flags; see ``Supply.port_for``."""
        wanted = tuple(flags)
        if wanted not in self._chosen:
            self._chosen[wanted] = self._choose(parse_flags(wanted, strict=True))
        return self._chosen[wanted]

    def _choose(self, wanted: frozenset[str]) -> SocksPort:
        listener = choose(self._listeners, wanted)
        if listener is None:
            words = " ".join(sorted(wanted)) or "no flags"
            raise NoSuchPort(
                f"tor has no SocksPort with {words}: add such a line to its torrc,"
                f" for example 'SocksPort 127.0.0.1:9052 {words}'"
            )
        return SocksPort(
            self._endpoints[listener.place],
            self._pipelined,
            "ExtendedErrors" in listener.known_flags,
            listener.known_flags,
        )


class PortFinder:
    """Asks a tor for its SocksPorts; complains about each unfortunate flag once."""

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._complained: set[str] = set()

    async def find(self, control: Control) -> PortTable:
        """Return the ports that can be reached now.

        Raises:
            NoSocksPort: there is none.
            ControlError: tor did not answer.
        """
        places = parse_listeners(await control.get_info("net/listeners/socks"))
        if not places:
            raise NoSocksPort(
                "this tor has no SocksPort (SocksPort 0 or DisableNetwork 1): give it one,"
                " for example 'SocksPort unix:/run/tor/socks'"
            )
        listeners = with_flags(places, await _configured(control))
        usable = [listener async for listener in self._reachable(listeners, control.peer_host)]
        if not usable:
            raise NoSocksPort(
                f"no SocksPort of this tor can be reached from here ({_listed(places)}): give it"
                " one on a unix socket or on loopback that this user may use"
            )
        table = PortTable(self._reactor, usable, _is_c_tor(control.version))
        self._complain(table)
        return table

    async def _reachable(self, listeners: Iterable[SocksListener], control_host: str | None) -> Any:
        for listener in listeners:
            place = seen_from_here(listener.place, control_host)
            if place is not None and await _takes_connections(self._reactor, place):
                yield replace(listener, place=place)

    def _complain(self, table: PortTable) -> None:
        best = table.best()
        new = [text for text in (complaints(best) if best else []) if text not in self._complained]
        for text in new:
            self._log.warn("{text}", text=text)
        self._complained.update(new)


def endpoint_at(reactor: Any, place: Place) -> IStreamClientEndpoint:
    """Return the endpoint that connects to a SocksPort."""
    if isinstance(place, str):
        return UNIXClientEndpoint(reactor, place, timeout=PROBE_TIMEOUT)
    host, port = place
    kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    return kind(reactor, host, port, timeout=PROBE_TIMEOUT)


async def _takes_connections(reactor: Any, place: Place) -> bool:
    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    trial: Deferred[Any] = endpoint_at(reactor, place).connect(factory)
    try:
        protocol = await trial
    except Exception:  # whatever it is, this port is of no use
        return False
    protocol.transport.abortConnection()
    return True


async def _configured(control: Control) -> tuple[SocksListener, ...] | None:
    """Return the configured ports; None where a filter on the control port hides them."""
    try:
        return parse_config(await control.command("GETCONF SocksPort __SocksPort"))
    except ControlLost:
        raise
    except ControlError:
        return None


def _is_c_tor(version: str) -> bool:
    # Arti has no such control port, and its versions do not begin so.
    return version.startswith("0.")


def _listed(places: Iterable[Place]) -> str:
    return ", ".join(
        f"unix:{printable(place)}" if isinstance(place, str) else f"{place[0]}:{place[1]}"
        for place in places
    )
