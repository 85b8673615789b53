"""HTTP: the page for requests that came to a SOCKS port, and CONNECT through an HTTP proxy.

It must not know Twisted or sockets. Begin reading in ``page``.
"""
