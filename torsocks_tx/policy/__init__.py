"""What a listener allows, and which streams may share a circuit.

It must not know Twisted, sockets or backends: these decisions are made here and nowhere else. Begin
reading in ``listener``, then ``isolation``.
"""
