"""The requesting side: connections and look-ups by way of a SOCKS server.

It must not know who asks: an application by its endpoint, or the tor backend for a client. Begin
reading in ``connection``, which leads the conversation; ``endpoint`` is the public interface.
"""
