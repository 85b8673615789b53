"""What is understood of HTTP: the page for misplaced requests, and CONNECT through an HTTP proxy.

It must not know Twisted or sockets. Begin reading in ``page``.
"""
