"""Streams through exit relays that a listener or a client has chosen, and the circuits there are.

It must not know who asks, and never uses another exit than was chosen. Begin reading in
``streams``.
"""
