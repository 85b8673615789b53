"""The SOCKS server: protocols, their factories, authentication, the connection limiter.

It must not know which backend carries the streams, nor command lines. Begin reading in
``protocol``: it follows one client's connection from its first byte.
"""
