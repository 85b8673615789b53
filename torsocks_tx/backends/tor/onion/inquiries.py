"""What tor is asked when an onion service could not be reached, and no event tells it."""

from __future__ import annotations

from torsocks_tx.backends.tor.onion.journal import may_carry
from torsocks_tx.backends.tor.onion.questions import Ask, Questions
from torsocks_tx.backends.tor.onion.sightings import Step, circuit_sighting


class Inquiries:
    """Asks by one control connection; ``ask`` sends a command. All fail with ``ControlError``."""

    def __init__(self, ask: Ask) -> None:
        self._questions = Questions(ask)

    async def fence(self) -> None:
        """Return when all events that tor had for us are here."""
        await self._questions.answer_to("GETINFO version")

    async def has_joined_circuit(self, address: str, token: str | None) -> bool:
        """Whether a circuit to the service is open that streams with this token use."""
        answer = await self._questions.answer_to("GETINFO circuit-status")
        for line in answer.splitlines():
            sighting = circuit_sighting(line.removeprefix("circuit-status="))
            if sighting is None or sighting.step is not Step.JOINED:
                continue
            if sighting.address == address and may_carry(sighting, token):
                return True
        return False

    async def has_key(self, address: str) -> bool:
        """Whether tor holds a client authorization key for the service."""
        answer = await self._questions.answer_to(f"ONION_CLIENT_AUTH_VIEW {address}")
        return any(line.startswith(f"CLIENT {address} ") for line in answer.splitlines())
