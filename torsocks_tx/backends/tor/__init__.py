"""Connections through tor: the control port, the SocksPort, and tors that we start ourselves."""
