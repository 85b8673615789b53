"""What other projects import in their tests: a private Tor network, and scripted SOCKS servers."""
