"""A private Tor network on loopback, for tests: real tor daemons, no traffic leaves the machine.

::

    net = PrivateNetwork(reactor)
    await net.start(progress=print)      # about 18 s; needs tor and tor-gencert
    print(net.client.socks_tcp)          # curl -x socks5h://HOST:PORT http://web.test:{net.web.port}
    service = await net.add_onion_service(net.web.port)
    #   PrivateNetwork(reactor, countries={"aa": 3, "bb": 3}): exits in countries
    await net.stop()                     # also if this process is killed, all of it ends

``python -m torsocks_tx.testing.tornet`` does the same from a command line. Begin reading in
``network``; ``torrc`` has the configuration of each daemon.
"""

from torsocks_tx.testing.tornet.client import Client, StreamEvent, StreamWatch
from torsocks_tx.testing.tornet.network import PrivateNetwork
from torsocks_tx.testing.tornet.node import NetworkError, Node
from torsocks_tx.testing.tornet.onion import ClientKey, OnionService
from torsocks_tx.testing.tornet.servers import (
    DEFAULT_NAMES,
    DEFAULT_POINTERS,
    EXIT_NAME,
    Asked,
    NameServer,
    Origin,
)
from torsocks_tx.testing.tornet.torrc import Exit

__all__ = [
    "DEFAULT_NAMES",
    "DEFAULT_POINTERS",
    "EXIT_NAME",
    "Asked",
    "Client",
    "ClientKey",
    "Exit",
    "NameServer",
    "NetworkError",
    "Node",
    "OnionService",
    "Origin",
    "PrivateNetwork",
    "StreamEvent",
    "StreamWatch",
]
