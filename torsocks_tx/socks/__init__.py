"""The SOCKS protocol without input or output: messages, both conversations, reply codes."""
