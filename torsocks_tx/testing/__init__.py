"""What other projects import in their tests: a private Tor network, and scripted SOCKS servers.

Nothing here may be needed to serve, except for ``--tor private``. Begin reading in ``scripted`` or
``tornet``.
"""
