"""Twisted's ``clientFromString`` for SOCKS: ``socks:example.com:443:socksPort=9050``.

Any program that takes the string of a client endpoint can so go through a SOCKS server. The plugin
imports this module: nothing heavy belongs at its top.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.interfaces import IStreamClientEndpointStringParserWithReactor
from twisted.plugin import IPlugin
from zope.interface import implementer

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 9050


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class SOCKSClientParser:
    """Reads ``socks:HOST:PORT[:option=value]...``.

    Where the server is: ``socksHost`` and ``socksPort``, or ``socksPath`` of a unix socket; by
    default tor's own 127.0.0.1:9050. How to speak to it: ``version`` (4 or 5), ``protocol``
    (socks or http), ``isolation`` (any text), ``username``, ``password``, ``extended`` and
    ``optimistic`` (yes or no). ``timeout``: seconds up to the reply; ``connectTimeout``: seconds to
    reach the server.
    """

    prefix = "socks"

    def parseStreamClient(  # type: ignore[override]
        self, reactor: Any, *args: str, **kwargs: str
    ) -> Any:
        """The endpoint that the string describes; ValueError for a string that is wrong."""
        from torsocks_tx.client.endpoint import SOCKSClientEndpoint

        if len(args) != 2:
            raise ValueError("write it as socks:HOST:PORT, then options")
        host, number = args[0], _port("PORT of socks:HOST:PORT", args[1])
        proxy = _proxy(reactor, kwargs)
        options = _options(kwargs)
        if kwargs:
            raise ValueError("unknown option of a socks endpoint: " + ", ".join(sorted(kwargs)))
        return SOCKSClientEndpoint(reactor, proxy, host, number, options)


def _proxy(reactor: Any, given: dict[str, str]) -> Any:
    """Take the options that say where the server is."""
    from twisted.internet import endpoints

    timeout = _seconds("connectTimeout", given.pop("connectTimeout", "30"))
    if "socksPath" in given:
        if "socksHost" in given or "socksPort" in given:
            raise ValueError("socksPath leaves nothing for socksHost and socksPort to say")
        path = _filled("socksPath", given.pop("socksPath"))
        return endpoints.UNIXClientEndpoint(reactor, path, timeout)
    host = _filled("socksHost", given.pop("socksHost", DEFAULT_HOST))
    port = _port("socksPort", given.pop("socksPort", str(DEFAULT_PORT)))
    return endpoints.HostnameEndpoint(reactor, host, port, timeout)


def _options(given: dict[str, str]) -> Any:
    """Take the options that say how to speak."""
    from torsocks_tx.socks.client_options import ClientOptions
    from torsocks_tx.socks.messages import Credentials

    username, password = given.pop("username", None), given.pop("password", None)
    isolation = given.pop("isolation", None)
    credentials = None
    if username is not None or password is not None:
        credentials = Credentials(_encoded(username or ""), _encoded(password or ""))
    return ClientOptions(
        version=int(given.pop("version", "5")),
        protocol=given.pop("protocol", "socks"),
        isolation=None if isolation is None else _encoded(isolation),
        credentials=credentials,
        extended=_yes_or_no("extended", given.pop("extended", "yes")),
        optimistic=_yes_or_no("optimistic", given.pop("optimistic", "no")),
        timeout=_seconds("timeout", given.pop("timeout", "180")),
    )


def _encoded(text: str) -> bytes:
    return text.encode("utf-8")


def _port(name: str, text: str) -> int:
    # int() would also take blanks, signs and underscores.
    if re.fullmatch("[0-9]{1,5}", text) is None or not 0 < int(text) < 65536:
        raise ValueError(f"{name} is {text!r}: a port is 1 to 65535")
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name}={text}: write a number of seconds above 0")
    return seconds


def _filled(name: str, text: str) -> str:
    if not text:
        raise ValueError(f"{name} is empty")
    return text


def _yes_or_no(name: str, text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"{name}={text}: write yes or no")
    return text == "yes"
