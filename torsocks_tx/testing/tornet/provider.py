"""The private Tor network as what stands behind a server: ``twistd torsocks --tor private``."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from torsocks_tx.backends.tor.providers import RunningTorProvider
from torsocks_tx.testing.tornet.network import PrivateNetwork


@implementer(IStreamClientEndpoint)
class _ControlOfClient:
    """The control port of the network's first client, which exists once the network does."""

    def __init__(self, reactor: Any, network: PrivateNetwork) -> None:
        self._reactor = reactor
        self._network = network

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        endpoint = clientFromString(self._reactor, self._network.client.control_endpoint)
        connected: Deferred[IProtocol] = endpoint.connect(protocolFactory)
        return connected


class PrivateTorProvider(RunningTorProvider):
    """Starts a private Tor network, says what there is to visit in it, and ends it.

    Args:
        reactor: the running reactor.
        network: a network that was not started; by default a new one.
    """

    _log = Logger()

    def __init__(self, reactor: Any, network: PrivateNetwork | None = None) -> None:
        self.network = network or PrivateNetwork(reactor)
        super().__init__(reactor, _ControlOfClient(reactor, self.network), name="the private tor")
        self._beginning: Deferred[None] | None = None

    def start(self) -> Deferred[None]:
        """Start the network, which takes about 15 s; clients wait meanwhile."""
        self._beginning = Deferred.fromCoroutine(self._begin())
        return self._beginning

    async def _begin(self) -> None:
        try:
            await self.network.start(lambda text: self._log.info("private network: {t}", t=text))
        except CancelledError:
            return
        except Exception as error:
            self.mark_down(f"the private network does not start: {error}")
            raise
        await super().start()
        service = await self.network.add_onion_service(self.network.web.port)
        port = self.network.web.port
        for url in (f"http://web.test:{port}/", f"http://{service.address}/"):
            self._log.info("private network: visit {url}", url=url)

    @property
    def control_address(self) -> str:
        """Where the network's client is controlled, once started."""
        return self.network.client.control_endpoint

    def stop(self) -> Deferred[None]:
        """End the network; no process and no file is left."""
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        await super().stop()
        if self._beginning is not None:
            self._beginning.cancel()
        await self.network.stop()
