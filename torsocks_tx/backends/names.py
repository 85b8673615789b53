"""Name look-ups as this machine makes them: ``/etc/hosts`` first, then its name servers.

Nothing runs in threads, so a silent name server delays only its own look-ups, and a look-up that is
cancelled by all its waiters ends at once, with its socket and its timer. ``search`` and
``options`` of ``resolv.conf`` are not applied: names are looked up as they are.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from os import PathLike
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime, IReadWriteDescriptor
from twisted.internet.protocol import connectionDone
from twisted.names import dns
from twisted.protocols.basic import Int16StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.errors import Busy, HostUnreachable, ProtocolError
from torsocks_tx.limits import check_arguments
from torsocks_tx.relay.connector import OneProtocol
from torsocks_tx.relay.sockets import abort
from torsocks_tx.relay.timeouts import turns_of
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address
from torsocks_tx.socks.wire import check_destination

TIMEOUTS = (1.0, 3.0, 5.0)
"""Seconds that each name server gets to answer: in the first round, the second, and the last."""

MAX_LOOK_UPS = 256
"""Different look-ups at one time; one more ends the one that has waited longest. Each has one
descriptor, in place of the connection that may follow."""

MAX_ADDRESSES = 16
"""Addresses of one name that are used."""

MAX_SERVERS = 3
"""Name servers of ``resolv.conf`` that are asked, as everywhere else."""

Server = tuple[str, int]
Hosts = tuple[dict[str, list[str]], dict[str, str]]
T = TypeVar("T")


def parse_hosts(text: str) -> Hosts:
    """Read a hosts(5) file: the addresses of each name, and the first name of each address."""
    addresses: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        with suppress(ValueError, IndexError):
            host = str(ipaddress.ip_address(fields[0]))
            names.setdefault(host, fields[1])
            for name in fields[1:]:
                addresses.setdefault(name.lower(), []).append(host)
    return addresses, names


def parse_resolv_conf(text: str) -> list[Server]:
    """Read the name servers of a resolv.conf(5) file: this machine's own if it names none."""
    servers = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 1 and fields[0] == "nameserver":
            with suppress(ValueError):
                servers.append((str(ipaddress.ip_address(fields[1])), dns.PORT))
    return servers[:MAX_SERVERS] or [("127.0.0.1", dns.PORT)]


class _ParsedFile(Generic[T]):
    """The parsed content of a file, which is read again when it has changed, and may be missing."""

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._seen: object = None
        self._value = parse("")

    def read(self) -> T:
        # A file that cannot be read just now (no descriptor is free, say) counts as unchanged.
        with suppress(OSError):
            try:
                status = os.stat(self._path)
                seen = (status.st_mtime_ns, status.st_size, status.st_ino)
                if seen != self._seen:
                    with open(self._path, encoding="utf-8", errors="replace") as file:
                        self._value = self._parse(file.read())
                    self._seen = seen
            except FileNotFoundError:
                self._seen, self._value = None, self._parse("")
        return self._value


class _Answers:
    """The queries to one name server about one name, and its answers.

    ``done`` fires when each question is answered, or ``fail`` was called.
    """

    def __init__(self, name: str, kinds: Sequence[int]) -> None:
        self.done: Deferred[None] = Deferred()
        self.records: list[Any] = []
        self.complete = True
        self.truncated = False
        self._open: dict[int, dns.Query] = {}
        while len(self._open) < len(kinds):
            query = dns.Query(name.encode("ascii"), kinds[len(self._open)], dns.IN)
            self._open.setdefault(secrets.randbelow(1 << 16), query)

    def messages(self) -> list[bytes]:
        """Return the queries as datagrams."""
        messages = []
        for number, query in self._open.items():
            message = dns.Message(number, recDes=1)
            message.queries = [query]
            messages.append(message.toStr())
        return messages

    def received(self, data: bytes) -> None:
        message = dns.Message()
        try:
            message.fromStr(data)
        except Exception:
            # The decoder raises whatever hostile bytes lead it to.
            return
        query = self._open.get(message.id)
        if query is None or not message.answer or message.queries != [query]:
            return
        del self._open[message.id]
        self.truncated = self.truncated or bool(message.trunc)
        self.complete = self.complete and message.rCode in (dns.OK, dns.ENAME)
        self.records += [each.payload for each in message.answers if each.type == query.type]
        if not self._open and not self.done.called:
            self.done.callback(None)

    def fail(self) -> None:
        self.complete = False
        if not self.done.called:
            self.done.callback(None)


@implementer(IReadWriteDescriptor)
class _DNSSocket:
    """Queries by UDP, each look-up from its own port.

    ``reactor.listenUDP`` would write two lines to the log for each look-up.
    """

    def __init__(self, reactor: Any, server: Server, answers: _Answers) -> None:
        self._reactor = reactor
        self._answers = answers
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            # The kernel then drops datagrams of others, and reports a closed port.
            self._socket.connect(server)
            for message in answers.messages():
                self._socket.send(message)
            reactor.addReader(self)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "DNS"

    def doRead(self) -> None:
        try:
            data = self._socket.recv(65535)
        except BlockingIOError:
            return
        except OSError:
            self._answers.fail()
        else:
            self._answers.received(data)

    def doWrite(self) -> None:
        """Ignore an event of the former user of the descriptor's number."""

    def connectionLost(self, reason: Failure) -> None:
        """Take an error of the descriptor, or ignore one of the former user of its number."""
        if self._socket.fileno() < 0:
            return
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._answers.fail()
        else:
            self._reactor.addReader(self)

    def close(self) -> None:
        self._reactor.removeReader(self)
        self._socket.close()


class _DNSStream(Int16StringReceiver):
    """Queries by TCP, where an answer is too long for UDP."""

    def __init__(self, answers: _Answers) -> None:
        self._answers = answers

    def connectionMade(self) -> None:
        for message in self._answers.messages():
            self.sendString(message)

    def stringReceived(self, string: bytes) -> None:
        self._answers.received(string)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Finish: the server has closed the connection."""
        self._answers.fail()


def _check_servers(servers: Sequence[Server]) -> None:
    try:
        for host, port in servers:
            ipaddress.ip_address(str(host))
            check_arguments(int, port=port)
    except (TypeError, ValueError):
        wanted = "pairs of an IP address and a port, such as ('127.0.0.1', 53)"
        raise ValueError(f"servers must be {wanted}, not {servers!r}") from None


Waiters = set["Deferred[tuple[Any, ...]]"]


def _pointer(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return the name that has the PTR record of an address."""
    if address.version == 4:
        return address.reverse_pointer
    # Python 3.13 gives a wrong one for IPv6 addresses with an IPv4 address inside.
    return ".".join(reversed(address.packed.hex())) + ".ip6.arpa"


class NameResolver:
    """Looks up names and addresses; cancel the Deferred to give up.

    ``servers``: name servers, as pairs of IP address and port, in place of those of
    ``resolv_conf``. Files are read again when they have changed.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        servers: Sequence[Server] | None = None,
        hosts: str = "/etc/hosts",
        resolv_conf: str = "/etc/resolv.conf",
    ) -> None:
        check_arguments(IReactorTime, reactor=reactor)
        check_arguments(Sequence, None, servers=servers)
        check_arguments(str, PathLike, hosts=hosts, resolv_conf=resolv_conf)
        _check_servers(servers or ())
        self._reactor = reactor
        self._turns = turns_of(reactor)
        self._servers = servers
        self._hosts = _ParsedFile(hosts, parse_hosts)
        self._resolv_conf = _ParsedFile(resolv_conf, parse_resolv_conf)
        # The running look-ups, oldest first; the same question is asked once for all its waiters.
        self._look_ups: dict[object, tuple[Deferred[tuple[Any, ...]], Waiters]] = {}

    def addresses(self, name: str) -> Deferred[list[str]]:
        """Fire with the IP addresses of a host name, IPv4 first; errback ``SOCKSError``."""
        name = name.lower().removesuffix(".")
        if any(not 0 < len(label) < 64 for label in name.split(".")) or not name.isascii():
            return fail(HostUnreachable("not a name that can be looked up"))
        known = self._hosts.read()[0].get(name)
        if known is not None:
            return succeed(known[:MAX_ADDRESSES])
        return self._share(name, dns.A, dns.AAAA).addCallback(_addresses)

    def name_of(self, ip: str) -> Deferred[str]:
        """Fire with the host name of an IP address; errback ``SOCKSError``."""
        address = ipaddress.ip_address(ip)
        known = self._hosts.read()[1].get(str(address))
        if known is not None:
            return succeed(known)
        return self._share(_pointer(address), dns.PTR).addCallback(_name)

    def _share(self, *question: Any) -> Deferred[tuple[Any, ...]]:
        """Wait for the answer to a question; share the look-up with its other waiters."""
        waiter: Deferred[tuple[Any, ...]] = Deferred(partial(self._leave, question))
        if question in self._look_ups:
            self._look_ups[question][1].add(waiter)
            return waiter
        if len(self._look_ups) >= MAX_LOOK_UPS:
            reason = Failure(Busy("too many names are being looked up"))
            self._end(next(iter(self._look_ups)), reason)
        work = Deferred.fromCoroutine(self._ask(*question))
        self._look_ups[question] = work, {waiter}
        work.addBoth(partial(self._end, question))
        return waiter

    def _leave(self, question: object, waiter: Deferred[tuple[Any, ...]]) -> None:
        """Remove a waiter; end the look-up if it was the last."""
        if question in self._look_ups:
            _, waiters = self._look_ups[question]
            waiters.discard(waiter)
            if not waiters:
                self._end(question, None)

    def _end(self, question: object, result: Any) -> None:
        """Give the result to all waiters, and cancel what still runs."""
        if question not in self._look_ups:
            return
        work, waiters = self._look_ups.pop(question)
        work.cancel()
        left = (waiter for waiter in waiters if not waiter.called)  # others are cancelled meanwhile
        self._turns.each(left, lambda waiter: waiter.callback(result))

    async def _ask(self, name: str, *kinds: int) -> tuple[Any, ...]:
        """Ask each name server in turn, in rounds, until one has answered."""
        for timeout in TIMEOUTS:
            for server in self._servers or self._resolv_conf.read():
                answers = await self._ask_by_udp(server, _Answers(name, kinds), timeout)
                if answers.truncated:
                    answers = await self._ask_by_tcp(server, _Answers(name, kinds), timeout)
                if answers.records or answers.complete:
                    return tuple(answers.records)
        raise HostUnreachable("no name server answers")

    async def _ask_by_udp(self, server: Server, answers: _Answers, timeout: float) -> _Answers:
        try:
            with closing(_DNSSocket(self._reactor, server, answers)):
                await answers.done.addTimeout(timeout, self._reactor)
        except (DeferredTimeout, OSError):
            answers.complete = False
        return answers

    async def _ask_by_tcp(self, server: Server, answers: _Answers, timeout: float) -> _Answers:
        endpoint = TCP6ClientEndpoint if ":" in server[0] else TCP4ClientEndpoint
        asked = _DNSStream(answers)
        connecting = endpoint(self._reactor, *server).connect(OneProtocol(asked))
        try:
            await connecting.addTimeout(timeout, self._reactor)
            await answers.done.addTimeout(timeout, self._reactor)
        except (DeferredTimeout, ConnectError):
            answers.complete = False
        finally:
            if asked.transport is not None:
                abort(asked.transport)
        return answers


def _addresses(records: tuple[Any, ...]) -> list[str]:
    packed = sorted(dict.fromkeys(record.address for record in records), key=len)
    if not packed:
        raise HostUnreachable("no address")
    return [str(ipaddress.ip_address(address)) for address in packed][:MAX_ADDRESSES]


def _name(records: tuple[Any, ...]) -> str:
    """Return the first valid host name: the owner of an address may publish anything."""
    for record in records:
        name = Address(AddressType.HOSTNAME, record.name.name.decode("latin-1"), 0)
        with suppress(ProtocolError):
            if not name.is_ip:
                return check_destination(name).host
    raise HostUnreachable("no name")
