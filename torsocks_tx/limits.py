"""Every deadline and bound of a server, with its default, in seconds and bytes."""

from __future__ import annotations

from dataclasses import dataclass

RENDEZVOUS_TIMEOUT = 45.0
"""Seconds that an onion service gets to come to the rendezvous point once it was told; most take
one. tor itself waits 120 s and then says 06."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The deadlines and bounds of one listener.

    ``handshake_timeout``: from the first moment to a whole request, however the bytes trickle in.
    ``connect_timeout``: from the request to its outcome, for anything but onion services.
    ``onion_timeout``: the same for onion services. tor ends such tries by itself, after 166 s in
    the worst case that was seen, and works longer for services that ask for proof of work; this is
    the net below it.
    ``idle_timeout``: how long an open stream may carry nothing at all; None for ever.
    ``linger_timeout``: after the client has closed its side, how long the far end may be silent
    once it has taken all there is. tor cannot be told that the client will send no more without
    losing the answer, so this timer is the only end.
    ``linger_limit``: how long that may last in all, and how long a client that is done may take to
    read what is left for it.
    ``drain_timeout``, ``drain_bytes``: after the last byte to a client, how long and how much it
    may still send before its connection is closed. Closing at once would reset it, and eat what it
    has not read.
    ``early_data``: bytes taken from a client before its stream is open.
    ``extended_bytes``, ``extended_pairs``: what one request of method X'97' may hold.
    ``max_connections``: clients at one time; one more is closed at once. None: as many as
    descriptors allow.
    ``max_per_client``: the same for one client address (of IPv6: one /64 network). None: a quarter
    of ``max_connections``, but as many as there may be for 127.0.0.1 and ::1, which all programs of
    a machine share.
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
