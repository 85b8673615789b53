"""For the tests of other projects: scripted SOCKS servers, and a private Tor network.

A server never needs this package, but for ``--tor private``. Begin reading in ``scripted`` or in
``tornet``.
"""
