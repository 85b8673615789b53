"""A pluggable transport for demonstration: it XORs, which does not resist analysis.

In the torrc of a client, with the bridge's fingerprint and a secret of your own:

    UseBridges 1
    ClientTransportPlugin veil exec /path/to/python3 /path/to/pluggable_transport.py
    Bridge veil 192.0.2.1:4000 0123456789ABCDEF0123456789ABCDEF01234567 secret=swordfish
"""

import hashlib
import hmac
import os
from itertools import cycle
from operator import xor

from twisted.internet.interfaces import IStreamClientEndpoint

from torsocks_tx.pt import Codec, CodecEndpoint, InvalidBridge, Target, run


class Veil(Codec):
    """Sends 32 random bytes, checks the bridge's proof of the secret, then XORs all bytes."""

    ready = False

    def __init__(self, secret: bytes, nonce: bytes) -> None:
        self.nonce = nonce
        self.proof = hmac.digest(secret, b"proof" + nonce, "sha256")
        self.out = cycle(hashlib.sha512(b"to the bridge" + secret + nonce).digest())
        self.back = cycle(hashlib.sha512(b"from the bridge" + secret + nonce).digest())
        self.heard = b""

    def start(self) -> bytes:
        """Return the random bytes."""
        return self.nonce

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the payload in bytes of the bridge; there is nothing to answer."""
        if not self.ready:
            self.heard += data
            proof, data = self.heard[:32], self.heard[32:]
            if not self.proof.startswith(proof):
                raise InvalidBridge("the bridge does not know the secret")
            self.ready = proof == self.proof
        return bytes(map(xor, data, self.back)), b""

    def encode(self, data: bytes) -> bytes:
        """Return payload XORed for the bridge."""
        return bytes(map(xor, data, self.out))


def veil(target: Target) -> IStreamClientEndpoint:
    """Return the endpoint for an address and its arguments."""
    secret = target.require("secret")
    return CodecEndpoint(target.endpoint, lambda: Veil(secret, os.urandom(32)))


if __name__ == "__main__":
    run({"veil": veil})
