"""Settings of the documentation site: ``make docs`` builds it from these pages with Sphinx.

The pages are plain Markdown that a forge shows as it is, so what only the site needs is here: the
order of the pages, and the list of public names whose docstrings make the API reference.
"""

from __future__ import annotations

import re
import sys
from enum import Enum
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torsocks_tx  # noqa: E402

CONTENTS = {
    "Run it": ["guide", "isolation", "onion-errors", "onion-table", "circuits"],
    "Use it": ["recipes", "http-connect"],
    "Operate it": ["status", "operating", "scaling", "control-port"],
    "Program with it": ["embedding", "client", "pluggable-transports", "testing"],
    "Look it up": ["reference", "api", "glossary"],
    "API reference": ["docstrings", "docstrings-errors", "docstrings-pt", "docstrings-testing"],
    "How it is made": ["design", "differences", "proposal-229", "conformance", "performance"],
}
"""Every page but the first, by the headings of the sidebar, in the order of reading."""

project = "torsocks_tx"
author = "The torsocks_tx authors"
version = release = torsocks_tx.__version__
copyright = author
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.zopeext.autointerface",
]
root_doc = "index"
nitpicky = True
# Where the types of others are described is not known without asking the network; some of ours
# that signatures name are not public.
nitpick_ignore_regex = [("py:.*", r"(?!torsocks_tx\b).*"), ("py:class", r"torsocks_tx\..*")]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "torsocks_tx"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
smartquotes = False  # --listen is no dash
pygments_dark_style = "github-dark"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True}
napoleon_use_ivar = True

OBJECT = r"<(?:InterfaceClass [\w.]*?|function )(\w+)>"
"""What Sphinx prints of an interface and of a function."""
PROGRAMMERS_PAGES = ("api", "pluggable-transports", "testing")
CODE = "".join((ROOT / f"docs/{page}.md").read_text("utf-8") for page in PROGRAMMERS_PAGES)
NAMED = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", CODE))))
"""What the pages for programmers name: other members of public classes are for our own modules."""
NAMESAKES = {
    *("ClientOptions.offer", "ClientOptions.request", "ConnectionLimiter.leave", "Node.kill"),
    *("ConnectionLimiter.serve", "Diagnosis.refused", "DirectBackend.target", "Server.open"),
    *("ListenerPolicy.port_flags", "OnionObserver.attempt", "OnionObserver.end"),
    *("SOCKSProtocol.received", "SOCKSProtocol.reset"),
}
"""Such members that have a name of something else there."""


def is_left_out(app: Sphinx, kind: str, name: str, thing: object, *rest: object) -> bool | None:
    """Leave a member out of the API reference if no page names it."""
    if kind == "exception":  # the docstring of SOCKSError says what each has
        return True
    if kind == "module" or isinstance(thing, Enum):
        return None
    whole = getattr(getattr(thing, "fget", thing), "__qualname__", "")
    return name not in NAMED or whole in NAMESAKES or None


def short_signature(app: Sphinx, *given: str | None) -> tuple[str | None, ...]:
    """Write interfaces and functions in a signature by their names alone, as the code does."""
    return tuple(text and re.sub(OBJECT, r"\1", text) for text in given[-2:])


def short_types(app: Sphinx, page: nodes.document) -> None:
    """Do the same where Sphinx could not read the signature, and for the types of attributes."""
    for text in list(page.findall(nodes.Text)):
        short = re.sub(r"~(\w+\.)+", "", re.sub(OBJECT, r"\1", text))
        if short != text:
            text.parent.replace(text, nodes.Text(short))


def add_contents(app: Sphinx, name: str, text: list[str]) -> None:
    """Give the first page the order of the others, which its text names by subject."""
    if name == root_doc:
        for caption, pages in CONTENTS.items():
            names = "\n".join(pages)
            text[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{names}\n```\n"


def setup(app: Sphinx) -> None:
    """Have Sphinx call us."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-skip-member", is_left_out)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("doctree-read", short_types)
