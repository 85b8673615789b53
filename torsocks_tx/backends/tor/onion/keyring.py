"""Gives tor the client authorization keys of a directory, and again whenever tor has lost them.

tor drops such keys at NEWNYM and when it is restarted. On a tor that others use too, the keys let
its other users in as well: tor knows no owner of a key.
"""

from __future__ import annotations

from pathlib import Path

from twisted.logger import Logger

from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.onion.client_auth import ClientAuthKey, load_directory


class Keyring:
    """The keys of one directory.

    Args:
        directory: where the ``.auth_private`` files are.

    Raises:
        OSError: the directory cannot be read.
    """

    _log = Logger()

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._keys: dict[str, ClientAuthKey] = {}
        self._withdrawn: dict[str, ClientAuthKey] = {}
        self.reload()

    def __len__(self) -> int:
        return len(self._keys)

    def reload(self) -> None:
        """Read the files again; ``install`` then gives tor what has changed.

        Each bad file is one line in the log, and does not keep the others from being used. Raises
        ``OSError`` if the directory cannot be read; the keys are then those of before.
        """
        keys, complaints = load_directory(self._directory)
        for complaint in complaints:
            self._log.warn("{complaint}", complaint=complaint)
        gone = {address: key for address, key in self._keys.items() if address not in keys}
        self._withdrawn.update(gone)
        self._keys = keys

    async def install(self, control: Control) -> None:
        """Give tor every key, and take those away whose files are gone.

        Raises:
            ControlLost: tor is gone; whatever else goes wrong is a line in the log.
        """
        for address, key in tuple(self._withdrawn.items()):
            if address not in self._keys:
                await self._tell(control, key, key.remove_command)
            self._withdrawn.pop(address, None)
        for key in tuple(self._keys.values()):
            await self._tell(control, key, key.add_command)

    async def _tell(self, control: Control, key: ClientAuthKey, command: str) -> None:
        try:
            await control.command(command)
        except ControlLost:
            raise
        except ControlError as error:
            self._log.warn(
                "{path}: tor does not take this key ({code} {text})",
                path=str(key.path),
                code=error.code,
                text=error.text.replace(key.address, "..."),
            )
