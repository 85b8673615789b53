"""Any environment of a parent is used, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import fuzz
from torsocks_tx.pt import spec
from torsocks_tx.pt.spec import Unusable

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
NAMES = [
    "TOR_PT_CLIENT_TRANSPORTS",
    "TOR_PT_STATE_LOCATION",
    "TOR_PT_EXIT_ON_STDIN_CLOSE",
    "TOR_PT_PROXY",
    "TOR_PT_OUTBOUND_BIND_ADDRESS_V4",
    "TOR_PT_OUTBOUND_BIND_ADDRESS_V6",
]
values = texts | st.sampled_from(["1", "veil,9", "/tmp", "[::1]", "::1", "127.0.0.1", "1,2"])
places = st.sampled_from(["127.0.0.1:1", "[::1]:1", "host:1", "1.2.3.4:99999", "[", ":1"]) | texts
uris = st.builds(
    "{}://{}@{}".format, st.sampled_from(["socks5", "socks4a", "http", "x"]), texts, places
)


def complaint(read: Callable[[], object]) -> str:
    """Return the text of the ``Unusable`` that reading raises, "" if it raises nothing."""
    text = ""
    try:
        read()
    except Unusable as error:
        text = str(error)
    assert spec.line(text) == text.encode() + b"\n"
    return text


@given(environ=st.dictionaries(st.sampled_from(NAMES), values))
@fuzz
def test_any_environment_is_used_or_refused_in_one_line(environ: dict[str, str]) -> None:
    line = complaint(lambda: spec.read_environment(environ))
    assert not line or line.startswith("ENV-ERROR ")


@given(versions=values)
@fuzz
def test_any_versions_are_used_or_refused_in_one_line(versions: str) -> None:
    line = complaint(lambda: spec.check_version({"TOR_PT_MANAGED_TRANSPORT_VER": versions}))
    assert line.startswith(("ENV-ERROR ", "VERSION-ERROR ")) if line else "1" in versions


@given(uri=uris | texts)
@fuzz
def test_any_proxy_is_used_or_refused_in_one_line(uri: str) -> None:
    line = complaint(lambda: spec.parse_proxy(uri))
    assert line.startswith("PROXY-ERROR ") if line else spec.parse_proxy(uri).address.is_ip
