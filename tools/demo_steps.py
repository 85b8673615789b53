"""The steps of the demo: each runs one real client."""

from __future__ import annotations

import os
import re
import shutil
import socket

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue

from torsocks_tx.testing.tornet import PrivateNetwork
from torsocks_tx.testing.tornet.client import StreamWatch

DEADLINE = 60
"""Seconds for one client."""


class StepFailed(Exception):
    """The result of a step is not the expected one."""


async def run(*argv: str) -> tuple[int, str, str]:
    """Run a client; return its exit status, output and errors."""
    ended = getProcessOutputAndValue(shutil.which(argv[0]) or argv[0], argv[1:], os.environ)
    out, err, status = await ended.addTimeout(DEADLINE, reactor)
    return status, out.decode(errors="replace").strip(), err.decode(errors="replace").strip()


async def output(*argv: str, words: str) -> str:
    """Run a client that is to succeed; return its output, in which these words must be."""
    status, out, err = await run(*argv)
    if status != 0 or words not in out:
        raise StepFailed(err or out[:200] or f"{argv[0]} ended with {status}")
    return out


class Demo:
    """The steps. Each returns its result in words, or raises ``StepFailed``."""

    def __init__(self, network: PrivateNetwork, address: str, onion: str) -> None:
        self.network = network
        self.address = address
        self.onion = onion
        self.port = network.web.port
        self.url = f"http://web.test:{self.port}/"

    async def _page(self, *options: str, url: str, words: str) -> str:
        await output("curl", "-sS", *options, url, words=words)
        return "the page, over IPv6" if "IPv6" in words else "the page"

    async def socks4(self) -> str:
        """An IPv4 address by SOCKS4."""
        url = f"http://203.0.113.9:{self.port}/"
        return await self._page("--socks4", self.address, url=url, words="origin")

    async def socks4a(self) -> str:
        """A name by SOCKS4a: tor looks it up, at the exit."""
        return await self._page("--socks4a", self.address, url=self.url, words="origin")

    async def socks5(self) -> str:
        """A name by SOCKS5."""
        return await self._page("--socks5-hostname", self.address, url=self.url, words="origin")

    async def ipv6(self) -> str:
        """An IPv6 address by SOCKS5."""
        if not self.network.ipv6:
            return "not tried: this machine has no IPv6 loopback address"
        url = f"http://[2001:db8::9]:{self.port}/"
        return await self._page("--socks5", self.address, url=url, words="IPv6")

    async def resolve(self) -> str:
        """Tor-resolve doc.test, by SOCKS5 and by SOCKS4a."""
        for extra in ([], ["-4"]):
            await output("tor-resolve", *extra, "doc.test", self.address, words="203.0.113.9")
        return "203.0.113.9, twice"

    async def resolve_ptr(self) -> str:
        """Tor-resolve -x 203.0.113.9."""
        what = "-x", "203.0.113.9", self.address
        return await output("tor-resolve", *what, words="doc.test")

    async def torsocks(self) -> str:
        """Torsocks curl, which looks the name up and then connects."""
        port = self.address.rpartition(":")[2]
        url = f"http://doc.test:{self.port}/"
        command = "torsocks", "-a", "127.0.0.1", "-P", port, "curl", "-sS", "--http0.9", url
        await output(*command, words="origin")
        return "the page"

    async def isolation(self) -> str:
        """Streams as alice, alice, bob, and by SOCKS4 as alice: which circuits."""
        target = f"web.test:{self.port}"
        watch = await self.network.client.watch_streams()
        who = [
            ("socks5h", "alice:1"),
            ("socks5h", "alice:1"),
            ("socks5h", "bob:1"),
            ("socks4a", "alice"),
        ]
        for scheme, user in who:
            await self._page(
                "-x", f"{scheme}://{user}@{self.address}", url=self.url, words="origin"
            )
        await watch.wait_for("SENTCONNECT", target, len(who))
        await watch.close()
        return _judge_circuits(watch, target)

    async def _by_exit(self, user: str) -> tuple[str, str]:
        """Fetch the page that says by which exit and country it was fetched."""
        url = f"http://exit.test:{self.port}/"
        proxy = f"socks5h://{user}:1@{self.address}"
        page = await output("curl", "-sS", "-x", proxy, url, words="You came by")
        [(relay, country)] = re.findall(r"You came by (\w+), in the country (\w+)", page)
        return relay, country

    async def countries(self) -> str:
        """The same page from two countries at once."""
        users = [f"eve-country-{country}" for country in ("de", "fr")]
        asked = [Deferred.fromCoroutine(self._by_exit(user)) for user in users]
        (first, one), (second, two) = await gatherResults(asked, consumeErrors=True)
        if (one, two) != ("de", "fr"):
            raise StepFailed(f"{first} in {one}, {second} in {two}")
        return f"{first} in {one}, {second} in {two}"

    async def rotation(self) -> str:
        """A session twice, then another session: which circuits."""
        target = f"exit.test:{self.port}"
        watch = await self.network.client.watch_streams()
        for session in (1, 1, 2):
            await self._by_exit(f"eve-session-{session}")
        await watch.wait_for("SENTCONNECT", target, 3)
        await watch.close()
        first, second, other = watch.circuits(target, "SENTCONNECT")
        if first != second or first == other:
            raise StepFailed(f"circuits {first}, {second}, {other}")
        return f"circuits {first}, {second} and {other}"

    async def path(self) -> str:
        """By which relays a stream went whose exit was chosen; HTTP says which that was."""
        proxy = f"http://eve-country-fr:1@{self.address}"
        status, _, err = await run("curl", "-sSvp", "-x", proxy, f"http://exit.test:{self.port}/")
        said = re.search(r"Torsocks-Exit: ([0-9A-F]{40}) fr", err)
        if status != 0 or said is None:
            raise StepFailed(err[-200:])
        control = await self.network.client.node.control()
        for line in (await control.get_info("circuit-status")).splitlines():
            hops = re.findall(r"\$([0-9A-F]{40})~(\w+)", line)
            if " BUILT " in line and "<torS0X>0" in line and hops[-1][0] == said[1]:
                return " > ".join(name for _, name in hops)
        raise StepFailed("no circuit ends at that exit")

    async def optimistic(self) -> str:
        """Request and payload in one segment, without waiting for any answer."""
        host, _, port = self.address.rpartition(":")
        name = b"web.test"
        ask = b"\x05\x01\x00" + b"\x05\x01\x00\x03" + bytes([len(name)]) + name
        ask += self.port.to_bytes(2, "big") + b"GET / HTTP/1.0\r\n\r\n"

        def talk() -> bytes:
            with socket.create_connection((host, int(port)), DEADLINE) as connection:
                connection.settimeout(DEADLINE)
                connection.sendall(ask)
                received = b""
                while chunk := connection.recv(65536):
                    received += chunk
                return received

        received = await deferToThread(talk)
        reply = bytes.fromhex("0500 05000001000000000000")
        if not received.startswith(reply) or b"origin" not in received:
            raise StepFailed(f"{len(received)} bytes came back, not the reply and the page")
        return "05 00, success, and the page behind it"

    async def http(self) -> str:
        """A browser that takes the port for an HTTP proxy."""
        command = "curl", "-sS", "-i", "-x", f"http://{self.address}", self.url
        await output(*command, words="501 Tor is not an HTTP Proxy")
        return "501, and a page that says what to change"

    async def onion_service(self) -> str:
        """An onion service."""
        url = f"http://{self.onion}/"
        # The service may move to other introduction points just now, and tor says 01.
        again = "--retry", "3", "--retry-all-errors"
        return await self._page(*again, "--socks5-hostname", self.address, url=url, words="origin")

    async def _refused(self, name: str, code: int) -> None:
        url = f"http://{name}/"
        status, _, err = await run("curl", "-sS", "--socks5-hostname", self.address, url)
        if status != 97 or f"({code})" not in err:
            raise StepFailed(err or f"curl ended with {status}")

    async def no_onion_service(self) -> str:
        """An onion service that is not on this network: the Tor Project's web site."""
        name = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
        await self._refused(name, 0xF0)
        return "reply F0, no descriptor was found"

    async def mistyped(self) -> str:
        """An onion address whose checksum is wrong."""
        await self._refused(f"{self.onion[:50]}aaaaaa.onion", 0xF6)
        return "reply F6, the address is not valid"

    async def refused(self) -> str:
        """A name that does not exist."""
        await self._refused("nowhere.test", 4)
        return "reply 04, host unreachable"


STEPS = (
    ("An IPv4 address by SOCKS4", Demo.socks4),
    ("A name by SOCKS4a: tor looks it up, at the exit", Demo.socks4a),
    ("A name by SOCKS5", Demo.socks5),
    ("An IPv6 address by SOCKS5", Demo.ipv6),
    ("tor-resolve doc.test, by SOCKS5 and by SOCKS4a", Demo.resolve),
    ("tor-resolve -x 203.0.113.9", Demo.resolve_ptr),
    ("torsocks curl, which looks the name up and then connects", Demo.torsocks),
    ("Streams as alice, alice, bob, and by SOCKS4 as alice: which circuits?", Demo.isolation),
    ("The same page, from two countries at once", Demo.countries),
    ("A session twice, then another session: which circuits?", Demo.rotation),
    ("The path to an exit in a chosen country", Demo.path),
    ("Request and payload in one segment, without waiting for any answer", Demo.optimistic),
    ("A browser that takes the port for an HTTP proxy", Demo.http),
    ("An onion service", Demo.onion_service),
    ("An onion service that is not there", Demo.no_onion_service),
    ("An onion address with a typing error", Demo.mistyped),
    ("A name that does not exist", Demo.refused),
)
"""Every step in order, with its title."""


def _judge_circuits(watch: StreamWatch, target: str) -> str:
    circuits = watch.circuits(target, "SENTCONNECT")
    first, second, other, socks4 = circuits
    if first != second or len({first, other, socks4}) != 3:
        raise StepFailed(f"circuits {circuits}")
    return f"circuits {first}, {second}, {other} and {socks4}"
