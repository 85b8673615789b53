"""Every deadline and bound of a server, with its default, in seconds and bytes."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torsocks_tx.arguments import check_limit

RENDEZVOUS_TIMEOUT = 45.0
"""Seconds that an onion service has to come to the rendezvous point; most take one. tor itself
waits 120 s and then replies 06."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The deadlines and bounds of one listener.

    ``handshake_timeout``: from the start of a connection to its complete request.
    ``connect_timeout``: from the request to its reply, for anything but onion services.
    ``onion_timeout``: the same for onion services. tor gives up by itself, after 166 s in the worst
    case that was seen, and later for services that ask for proof of work.
    ``idle_timeout``: how long an open stream may carry nothing at all; None: no limit.
    ``linger_timeout``: after the client has stopped sending, how long the remote may be silent. tor
    would lose the answer if it were told that the client sends no more, so only this timer ends the
    stream.
    ``linger_limit``: longest life of a stream whose client has stopped sending, with the time that
    the client takes to read what is left for it.
    ``drain_timeout``, ``drain_bytes``: after the last byte to a client, how long and how much it
    may still send before its connection is closed. Closing at once would reset the connection, and
    lose what the client has not read.
    ``early_data``: bytes taken from a client before its stream is open.
    ``extended_bytes``, ``extended_pairs``: what one extended authentication may hold.
    ``max_connections``: clients at one time; one more is closed at once. None: no limit (twistd:
    as many as descriptors allow).
    ``max_per_client``: the same for one client address (of IPv6: one /64 network). None: a quarter
    of ``max_connections`` for any address but 127.0.0.1 and ::1, which all programs of a machine
    share. Clients without an address, as of unix sockets, are not counted by it. One address that
    is counted, whether or not it has a limit, may be on the way to 32 onion services at one time:
    its further requests for them wait, up to ``onion_timeout``.
    """

    handshake_timeout: float = 30.0
    connect_timeout: float = 120.0
    onion_timeout: float = 600.0
    idle_timeout: float | None = None
    linger_timeout: float = 30.0
    linger_limit: float = 300.0
    drain_timeout: float = 2.0
    drain_bytes: int = 1024 * 1024
    early_data: int = 64 * 1024
    extended_bytes: int = 256 * 1024
    extended_pairs: int = 1024
    max_connections: int | None = None
    max_per_client: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                check_limit(field.name, value)
