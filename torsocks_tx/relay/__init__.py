"""Moving the bytes of a stream between a client's transport and what a backend has opened.

It must not know SOCKS, nor which backend is behind it. Begin reading in ``relay``, which works for
every transport; ``splice`` is the shorter way for two plain sockets.
"""
