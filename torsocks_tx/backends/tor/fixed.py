"""A SocksPort at an endpoint, and nothing else known of its tor."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint

from torsocks_tx.backends.tor.socks_ports import parse_flags
from torsocks_tx.backends.tor.supply import NoSuchPort, SocksPort, Supply


class FixedSupply(Supply):
    """Provides one endpoint: ready from start to stop, whether a tor is behind it or not.

    Args:
        endpoint: the SocksPort.
        pipelined: it is known to be C Tor's (others close when early data comes too early).
        extended_errors: it has the flag ExtendedErrors.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        *,
        pipelined: bool = False,
        extended_errors: bool = False,
    ) -> None:
        super().__init__()
        self._port = SocksPort(endpoint, pipelined, extended_errors)

    def start(self) -> Deferred[None]:
        """See ``Supply``."""
        self._readiness.started()
        self._readiness.ports = _OnePort(self._port)
        self._readiness.ready()
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """See ``Supply``."""
        self._readiness.stopped()
        return succeed(None)


class _OnePort:
    def __init__(self, port: SocksPort) -> None:
        self._port = port

    def port_for(self, flags: Iterable[str]) -> SocksPort:
        wanted = parse_flags(flags, strict=True)
        if wanted:
            raise NoSuchPort(
                f"whether this SocksPort has {' '.join(sorted(wanted))} cannot be known without"
                " tor's control port: give that too"
            )
        return self._port
