"""What is understood of HTTP: the page for lost browsers, and CONNECT through an HTTP proxy."""
