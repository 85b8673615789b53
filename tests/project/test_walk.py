"""How many modules and calls one connection needs."""

from __future__ import annotations

from bench.walk import walk

MODULES, CALLS = 19, 149
"""The most that a CONNECT through tor may enter and call."""


async def test_a_connect_through_tor_passes_few_modules_in_few_calls() -> None:
    calls = await walk()
    modules = {module for module, _ in calls}
    assert {"server/protocol", "backends/tor/backend", "client/connection"} <= modules
    assert (len(modules) <= MODULES, len(calls) <= CALLS) == (True, True), (
        f"{len(modules)} modules, {len(calls)} calls: see python -m bench.walk"
    )
