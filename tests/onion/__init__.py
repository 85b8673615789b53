"""Onion services that fail in every way there is, on the private network."""
