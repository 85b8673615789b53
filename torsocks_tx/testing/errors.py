"""What can go wrong with the private Tor network."""

from __future__ import annotations


class NetworkError(Exception):
    """The private network, or one of its daemons, does not come up; the text says why."""
