"""What ``twistd`` knows of torsocks_tx: one command, whose module is imported when it is asked for.

To list its plugins, Twisted imports every module of this directory: nothing heavy belongs here.
"""

from twisted.application.service import ServiceMaker

torsocks = ServiceMaker(
    "torsocks_tx",
    "torsocks_tx.tap",
    "A SOCKS4, SOCKS4a and SOCKS5 server that speaks through Tor.",
    "torsocks",
)
