"""HTTP: CONNECT, both sides, and the page for any other request that came to a SOCKS port.

It must not know Twisted or sockets. Begin reading in ``server``, then in ``answers``.

The page is for a first byte of ``G``, ``H`` or ``P`` (socks-extensions, section 4), and for ``C``
where CONNECT is not spoken, as by C Tor. It is the same for every request and repeats nothing of
it. Wallets find a SOCKS port of Tor by
sending ``GET`` and a newline and looking for "Tor is not an HTTP Proxy" in the first 1,024 bytes of
the answer, within 100 ms.
"""

LETTERS = frozenset(b"GHPC")
"""First bytes of GET, HEAD, POST, PUT, PATCH and CONNECT."""

_BODY = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tor is not an HTTP Proxy</title>
<style>
body{font:18px/1.6 system-ui,sans-serif;max-width:36em;margin:12vh auto;padding:0 1.5em;
color:#222;background:#faf8fc}
h1{font-size:1.6em;line-height:1.25;color:#59316b}
code{background:#eee6f2;padding:.1em .35em;border-radius:.25em}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#1d1822}h1{color:#c9a3dc}
code{background:#38303f}}
</style>
</head>
<body>
<h1>This is a SOCKS proxy, not an HTTP proxy</h1>
<p>Your browser or program is set up to use this port as an <strong>HTTP proxy</strong> for plain
HTTP. It does not do that, so nothing was sent on, and your request did not reach the web site.</p>
<p><strong>To fix it</strong>, open the proxy settings and move this host and port from
<em>HTTP&nbsp;Proxy</em> to <em>SOCKS&nbsp;Host</em>. Choose <em>SOCKS&nbsp;v5</em>, let the proxy
look up host names, and leave the HTTP proxy empty. On a command line, write
<code>socks5h://</code> in place of <code>http://</code>.</p>
<p><strong>For a program without SOCKS</strong>, unless its owner has switched it off, this port is
also a proxy for <code>https://</code> addresses (<code>HTTPS&nbsp;Proxy</code>,
<code>https_proxy=http://host:port</code>): it serves the method <code>CONNECT</code>.</p>
</body>
</html>
"""

PAGE = (
    b"HTTP/1.0 501 Tor is not an HTTP Proxy\r\n"
    b"Content-Type: text/html; charset=utf-8\r\n"
    b"Content-Length: %d\r\n"
    b"Cache-Control: no-store\r\n"
    b"Connection: close\r\n"
    b"\r\n" % len(_BODY)
) + _BODY
"""The whole answer."""
