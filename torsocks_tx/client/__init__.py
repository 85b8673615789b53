"""The requesting side: endpoints that connect through a SOCKS server."""
