"""The bytes of each message: ``parse_x`` beside ``build_x``, without state and without I/O."""
