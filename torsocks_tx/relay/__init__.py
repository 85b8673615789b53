"""Moving the bytes of a stream between two transports."""
