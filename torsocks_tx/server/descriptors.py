"""How many connections the open descriptors of this process allow."""

from __future__ import annotations

import resource

RESERVED = 96
"""Descriptors kept for listeners, logs, tor, pipes and the like."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one; the connections that it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = hard if hard != resource.RLIM_INFINITY else 1 << 20
    return max((most - RESERVED) // 2, 1)
