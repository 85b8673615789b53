"""Client authorization keys of onion services: read from files, and given to tor.

The files are those of tor(1)'s ClientOnionAuthDir: each ``NAME.auth_private`` holds one line::

    <56 characters of the address>:descriptor:x25519:<32 bytes of the private key in base32>

tor drops keys at NEWNYM and when it is restarted; they are sent to it again then. On a tor that
others use too, its other users can use the keys as well: for tor a key has no owner.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from torsocks_tx.backends.tor.commands import CLIENT_AUTH_ADD, CLIENT_AUTH_REMOVE, UNRECOGNIZED
from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.files import check_directory, read_trusted
from torsocks_tx.errors import InvalidOnionAddress
from torsocks_tx.limits import check_arguments
from torsocks_tx.socks.onion_address import check_onion

SUFFIX = ".auth_private"
MAX_FILE_BYTES = 4096
"""A file that is longer is not read: a key takes 130 bytes."""

MOST_COMPLAINTS = 20
"""Bad files that are named in the log at one time."""

_KEY_BYTES = 32
_ADDRESS = re.compile(r"[a-z2-7]{56}", re.IGNORECASE)
_FORM = "write ADDRESS:descriptor:x25519:KEY, the address without .onion, the key in base32"


class BadKeyFile(ValueError):
    """A file that holds no key; the text is one line that never quotes the key."""


@dataclass(frozen=True, slots=True)
class ClientAuthKey:
    """A key that opens one onion service: the ``address`` in lower case, without ``.onion``."""

    address: str
    private: bytes = field(repr=False)
    path: Path


def name_of(path: Path) -> str:
    """Return the path for a log: of an onion address in it only the first characters."""
    printable = str(path).encode("unicode_escape").decode("ascii")
    return _ADDRESS.sub(lambda match: match[0][:8] + "...", printable)


def parse_key(text: str, path: Path) -> ClientAuthKey:
    """Read one key; raises ``BadKeyFile``."""
    fields = text.strip().split(":")
    if len(fields) != 4 or fields[1:3] != ["descriptor", "x25519"]:
        raise BadKeyFile(f"{name_of(path)}: not a client authorization key; {_FORM}")
    address, private = fields[0].lower(), b""
    try:
        if _ADDRESS.fullmatch(address) is None:
            raise InvalidOnionAddress("not 56 characters of base32")
        check_onion(f"{address}.onion")
    except InvalidOnionAddress as error:
        raise BadKeyFile(f"{name_of(path)}: the address is not valid ({error}); {_FORM}") from None
    with suppress(ValueError):
        private = base64.b32decode(fields[3].upper() + "=" * (-len(fields[3]) % 8))
    if len(private) != _KEY_BYTES:
        raise BadKeyFile(f"{name_of(path)}: the key is not {_KEY_BYTES} bytes in base32; {_FORM}")
    return ClientAuthKey(address, private, path)


def load_directory(directory: Path) -> tuple[dict[str, ClientAuthKey], list[str]]:
    """Read every key file: the keys by address, and a line about each file that is not one.

    Of two files for one address the one that comes first by its name counts.

    Raises:
        OSError: the directory cannot be read, or others may write to it.
    """
    check_directory(directory)
    keys: dict[str, ClientAuthKey] = {}
    complaints: list[str] = []
    for path in sorted(directory.iterdir()):
        if path.suffix != SUFFIX:
            continue
        try:
            key = parse_key(_read(path), path)
        except BadKeyFile as error:
            complaints.append(str(error))
            continue
        first = keys.setdefault(key.address, key)
        if first is not key:
            complaint = f"{name_of(Path(first.path.name))} is for the same address"
            complaints.append(f"{name_of(path)}: {complaint}; remove one of them")
    return keys, complaints


def _read(path: Path) -> str:
    hint = "make it a file that this user can read and no other can write"
    try:
        content = read_trusted(path, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadKeyFile(f"{name_of(path)}: {error.strerror}; {hint}") from None
    if len(content) > MAX_FILE_BYTES:
        raise BadKeyFile(f"{name_of(path)}: longer than {MAX_FILE_BYTES} bytes; {_FORM}")
    if not content.isascii():
        raise BadKeyFile(f"{name_of(path)}: not a text of ASCII; {_FORM}")
    return content.decode("ascii")


class Keyring:
    """The keys in the ``.auth_private`` files of a directory.

    Raises ``OSError`` if the directory cannot be read, and ``PermissionError`` if others may write
    to it; the text names the directory.
    """

    _log = Logger()

    def __init__(self, directory: str | Path) -> None:
        check_arguments(str, PathLike, directory=directory)
        self._directory = Path(directory)
        self.keys: Mapping[str, ClientAuthKey] = {}
        self.reload()

    def __len__(self) -> int:
        return len(self.keys)

    def reload(self) -> None:
        """Read the files again.

        Each bad file is one line in the log, and does not keep the others from being used. Raises
        as the constructor does; the keys are then those of before.
        """
        keys, complaints = load_directory(self._directory)
        for complaint in complaints[:MOST_COMPLAINTS]:
            self._log.warn("{complaint}", complaint=complaint)
        if more := len(complaints[MOST_COMPLAINTS:]):
            self._log.warn("and {more} more files of that kind", more=more)
        self.keys = keys


class InstalledKeys:
    """What one tor has been given of a keyring."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._given: dict[str, ClientAuthKey] = {}
        self._lock = DeferredLock()

    async def install(self, control: Control) -> None:
        """Give tor every key, and take those away whose files are gone.

        Raises:
            ControlError: tor is gone or does not answer. A key that tor refuses is only logged.
        """
        # One call at a time: a key that an earlier call still sends may be withdrawn meanwhile.
        await self._lock.run(lambda: Deferred.fromCoroutine(self._install(control)))

    async def _install(self, control: Control) -> None:
        for address, key in tuple(self._given.items()):
            if address not in self._keyring.keys:
                await _tell(control, key, CLIENT_AUTH_REMOVE.line(address=address))
                del self._given[address]
        for address, key in tuple(self._keyring.keys.items()):
            self._given[address] = key
            private = base64.b64encode(key.private).decode("ascii")
            await _tell(control, key, CLIENT_AUTH_ADD.line(address=address, key=private))


async def _tell(control: Control, key: ClientAuthKey, command: str) -> None:
    try:
        await control.command(command)
    except ControlError as error:
        if not error.code:  # no answer
            raise
        if error.code == UNRECOGNIZED:  # no key at all, which ``control`` has said
            return
        said = error.text.replace(key.address, "...")
        control.log.say(f"{name_of(key.path)}: tor does not take this key ({error.code} {said})")
