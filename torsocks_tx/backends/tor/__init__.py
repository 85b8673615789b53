"""Streams and look-ups through tor: its SocksPort, its control port, and tors that we start.

It must not know who asks, nor ever go around tor. Begin reading in ``backend``; ``provider`` says
whether tor can be used now, and ``onion`` why a stream to an onion service failed.
"""
