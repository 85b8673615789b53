"""How a client speaks to a SOCKS server: which methods it offers, and what it sends by each.

No method is offered that would drop something the user asked for: with isolation, method 00 is not
offered, and with key-value pairs, only extended authentication is.
"""

from __future__ import annotations

import hmac
import math
import os
from dataclasses import dataclass, field

from torsocks_tx import errors
from torsocks_tx.limits import check_arguments, check_flags
from torsocks_tx.socks import extended, socks4, socks5, userpass
from torsocks_tx.socks.constants import (
    AddressType,
    CodeSet,
    Command,
    ExtendedStatus,
    Method,
    Role,
    Version,
)
from torsocks_tx.socks.extended import ISOLATION, PASSWD, REPLY_CODES, REQUIRE, USERNAME
from torsocks_tx.socks.messages import NO_PAIRS, Address, Credentials, KeyValues, Request
from torsocks_tx.socks.replies import extended_refusal, refusal

_OWN_KEYS = (USERNAME, PASSWD, ISOLATION, REQUIRE, REPLY_CODES)
_PROCESS_SECRET = os.urandom(32)


@dataclass(frozen=True, slots=True)
class Offer:
    """The methods of a greeting, in order, and what the server's refusals mean.

    ``needed``: keys that the server must list as accepted. ``on_unsupported``: the refusal if the
    server takes no method, or does not accept a needed key. ``role``: the kind of port, None to go
    by the set of reply codes that the server announces. ``login``: the refusal of credentials.
    """

    methods: tuple[Method, ...]
    needed: frozenset[str] = frozenset()
    on_unsupported: type[errors.ProxyFault] = errors.LoginRefused
    role: Role | None = None
    login: type[errors.LoginRefused] = errors.LoginRefused

    def refusal(self, code: int, announced: CodeSet | None) -> errors.SOCKSError:
        """Return what a reply code means; ``announced``: the set of codes that the server named."""
        if Method.EXTENDED not in self.methods and self.role is None:
            return refusal(code)
        return extended_refusal(code, self.role, announced)

    def pairs_refusal(self, status: int, pairs: KeyValues) -> errors.ProxyFault:
        """Return what a failure status of extended authentication means; ``pairs`` came with it."""
        kind: type[errors.ProxyFault] = errors.ArgumentsRefused
        if status == ExtendedStatus.AUTHENTICATION_FAILED:
            kind = self.login
        elif pairs.get(extended.UNSUPPORTED) is not None:
            kind = self.on_unsupported
        return kind(f"the SOCKS server answered with status {status}", status=status)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a client speaks to a SOCKS server.

    ``version``: 5, or 4 for SOCKS4 and, with a name, SOCKS4a.
    ``isolation``: any bytes; connections with different ones must not share a circuit. With a
    server that cannot promise that, they fail (``NotIsolated``). Extended authentication sends it
    as it is; in credentials the server gets a keyed hash of it. The key is ``isolation_secret`` (at
    least 16 random bytes, for processes that are to share circuits), by default one of this
    process.
    ``credentials``: a user name and a password.
    ``pairs``: what else to send by extended authentication (``PT.*``, ``X-*``); ``require``: which
    of the keys the server must know. Servers without that method fail (``ArgumentsRefused``).
    ``reply_codes``: the set of codes to ask for by extended authentication.
    ``role``: whether the port is tor's or a transport's; None: as its response says.
    ``extended``: whether to offer extended authentication. ``optimistic``: hand the connection over
    as soon as the request is sent. ``timeout``: seconds for everything up to the reply; None: no
    limit.
    ``protocol``: "socks", or "http" to go by CONNECT through an HTTP proxy. That proxy must
    announce ``Tor-Stream-Isolation`` where ``isolation`` is asked for, and gets credentials by the
    scheme Basic; the rest is for SOCKS only.
    """

    version: int = 5
    isolation: bytes | None = field(default=None, repr=False)
    isolation_secret: bytes = field(default_factory=lambda: _PROCESS_SECRET, repr=False)
    credentials: Credentials | None = None
    pairs: KeyValues = NO_PAIRS
    require: tuple[str, ...] = ()
    reply_codes: CodeSet | None = None
    role: Role | None = None
    extended: bool = True
    optimistic: bool = False
    timeout: float | None = 180.0
    protocol: str = "socks"

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.protocol not in ("socks", "http"):
            raise ValueError('a protocol is "socks" or "http"')
        if self.version not in (4, 5):
            raise ValueError("SOCKS has versions 4 and 5")
        if any(key in _OWN_KEYS for key in self.pairs.names):
            raise ValueError("these keys have options of their own: " + ", ".join(_OWN_KEYS))
        if not self.extended and (self.pairs or self.require or self._both):
            raise ValueError("this needs extended authentication, which is switched off")
        if self.version == 4:
            self._check_socks4()
        if self.protocol == "http":
            self._check_http()
            return
        extended.build_request(self._all_pairs)
        if Method.USERNAME_PASSWORD in self.offer.methods and self._legacy_credentials:
            userpass.build_credentials(self._legacy_credentials)

    def _check_kinds(self) -> None:
        """Refuse values of a wrong type, which would only fail later or mean something else."""
        check_flags(self)
        check_arguments(int, version=self.version)
        check_arguments(bytes, None, isolation=self.isolation)
        check_arguments(bytes, isolation_secret=self.isolation_secret)
        check_arguments(Credentials, None, credentials=self.credentials)
        check_arguments(KeyValues, pairs=self.pairs)
        check_arguments(tuple, require=self.require)
        check_arguments(CodeSet, None, reply_codes=self.reply_codes)
        check_arguments(Role, None, role=self.role)
        check_arguments(int, float, None, timeout=self.timeout)
        check_arguments(str, protocol=self.protocol)
        if self.credentials is not None:
            known = self.credentials
            check_arguments(bytes, username=known.username, password=known.password)
        if len(self.isolation_secret) < 16:
            raise ValueError("an isolation secret is at least 16 random bytes")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError("a timeout is a number of seconds above 0, or None")

    def _check_http(self) -> None:
        of_socks = self.version == 4 or self.pairs or self.require or self.reply_codes or self.role
        if of_socks:
            raise ValueError("SOCKS4, pairs, reply codes and roles are of SOCKS, not of HTTP")
        if self.credentials is not None and b":" in self.credentials.username:
            raise ValueError("HTTP has no user names with a colon")

    def _check_socks4(self) -> None:
        password = self.credentials is not None and self.credentials.password
        if password or self.pairs or self.require or self._both:
            raise ValueError("SOCKS4 carries one user id, for a name or for isolation")

    @property
    def _both(self) -> bool:
        return self.isolation is not None and self.credentials is not None

    @property
    def offer(self) -> Offer:
        """Return what to offer a SOCKS5 server."""
        named = self.isolation is not None or self.credentials is not None
        known = self.credentials
        too_long = known is not None and max(len(known.username), len(known.password)) > 255
        only_pairs = self.pairs or self.require or self._both or (self.extended and too_long)
        methods = [Method.EXTENDED] if self.extended else []
        if not only_pairs:
            methods.append(Method.USERNAME_PASSWORD if named else Method.NO_AUTH)
        isolation = {ISOLATION} if self.isolation is not None else set()
        login = errors.LoginRequired if self.credentials is None else errors.LoginRefused
        on_unsupported = errors.ArgumentsRefused if only_pairs else login
        return Offer(
            tuple(methods),
            frozenset({*self.require, *isolation}),
            errors.NotIsolated if isolation else on_unsupported,
            self.role,
            login,
        )

    def request(self, command: Command, address: Address) -> Request:
        """Return the request to make; ValueError if it does not fit this version."""
        if self.protocol == "http":
            if command is not Command.CONNECT:
                raise ValueError("HTTP has no look-ups")
            return Request(Version.HTTP, command, address, self.credentials)
        version = Version(self.version)
        if version is Version.SOCKS4 and address.type is AddressType.IPV6:
            # SOCKS4 has no IPv6, but servers with SOCKS4a understand it as a name.
            address = Address(AddressType.HOSTNAME, address.host, address.port)
        pairs = self._all_pairs if version is Version.SOCKS5 else NO_PAIRS
        request = Request(version, command, address, self._legacy_credentials, pairs=pairs)
        if version is Version.SOCKS5:
            socks5.build_request(command, address)
        elif command is Command.RESOLVE_PTR:
            raise ValueError("SOCKS4 cannot look up the name of an address")
        else:
            socks4.build_request(request)
        return request

    @property
    def _all_pairs(self) -> KeyValues:
        """Return the pairs to send by extended authentication."""
        pairs: list[tuple[str, bytes]] = []
        if self.credentials is not None:
            pairs += [(USERNAME, self.credentials.username), (PASSWD, self.credentials.password)]
        if self.isolation is not None:
            pairs.append((ISOLATION, self.isolation))
        if self.offer.needed:
            pairs.append((REQUIRE, ",".join(sorted(self.offer.needed)).encode("ascii")))
        if self.reply_codes is not None:
            pairs.append((REPLY_CODES, self.reply_codes.value.encode("ascii")))
        return KeyValues.of([*pairs, *self.pairs])

    @property
    def isolation_token(self) -> str | None:
        """Return what stands for the isolation where a server gets no pairs."""
        if self.isolation is None:
            return None
        # A hash fits at any length; with a key, nobody who sees it can test guesses.
        return hmac.digest(self.isolation_secret, self.isolation, "sha256").hex()

    @property
    def _legacy_credentials(self) -> Credentials | None:
        """Return what to send by method 02, or in a SOCKS4 user id."""
        if self.isolation is None or self._both:
            return self.credentials or (Credentials(b"") if self.version == 4 else None)
        token = (self.isolation_token or "").encode("ascii")
        if self.version == 4:
            return Credentials(token)
        return Credentials(userpass.ISOLATION_USERNAME, token)
