"""What a listener allows, and which streams may share a circuit."""
