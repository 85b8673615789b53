"""What stands behind a server and opens connections: tor, no proxy at all, an endpoint, memory.

A backend must not know SOCKS clients: it is given a request and a receiver (``interfaces``). Begin
reading in ``memory``, the smallest one.
"""
