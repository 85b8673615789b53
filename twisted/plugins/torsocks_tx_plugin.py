"""What Twisted knows of torsocks_tx: the command of ``twistd``, and a kind of client endpoint.

To list its plugins, Twisted imports every module of this directory: nothing heavy belongs here.
"""

from twisted.application.service import ServiceMaker

from torsocks_tx.client.strings import SOCKSClientParser

torsocks = ServiceMaker(
    "torsocks_tx",
    "torsocks_tx.twistd.tap",
    "A SOCKS4, SOCKS4a and SOCKS5 server that speaks through Tor.",
    "torsocks",
)
socks = SOCKSClientParser()
