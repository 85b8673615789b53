"""Requests of a scripted server as JSON, for programs in any language."""

from __future__ import annotations

from typing import Any

from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials
from torsocks_tx.testing.scripted_server import ScriptedRequest


def to_json(request: ScriptedRequest) -> dict[str, Any]:
    """What ``json`` can write. Bytes are hexadecimal; there is no user where none was named."""
    credentials = request.credentials
    return {
        "version": int(request.version),
        "command": request.command.name,
        "address_type": request.address.type.name,
        "host": request.address.host,
        "port": request.address.port,
        "username": None if credentials is None else credentials.username.hex(),
        "password": None if credentials is None else credentials.password.hex(),
        "handshake": request.handshake.hex(),
        "mistake": request.mistake,
    }


def from_json(fields: dict[str, Any]) -> ScriptedRequest:
    """The request that ``to_json`` described."""
    credentials = None
    if fields["username"] is not None:
        username, password = (bytes.fromhex(fields[name]) for name in ("username", "password"))
        credentials = Credentials(username, password)
    return ScriptedRequest(
        Version(fields["version"]),
        Command[fields["command"]],
        Address(AddressType[fields["address_type"]], fields["host"], fields["port"]),
        credentials,
        bytes.fromhex(fields["handshake"]),
        fields["mistake"],
    )
