"""The SOCKS protocol without input or output: messages, both sides of the handshake, reply codes.

It must not know Twisted, sockets or tor's control port: bytes and values go in, bytes and values
come out. Begin reading in ``messages`` (what a request is), then ``server`` (its answers).
"""
