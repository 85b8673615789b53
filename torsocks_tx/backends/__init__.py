"""Ways to open a connection for a client."""
