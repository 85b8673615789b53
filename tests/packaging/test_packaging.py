"""The distributions hold the right files, and twistd finds the plugin in each installation."""

from __future__ import annotations

import json
import tarfile
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

from tests.packaging.conftest import ROOT
from tests.packaging.environment import Environment, run
from torsocks_tx import __version__

# These need pytest or Scrapy; all other modules work without.
LEFT_OUT = ("__main__", "pytest_plugin", "scrapy_handler")
PLUGIN = "twisted/plugins/torsocks_tx_plugin.py"
MANUAL = f"torsocks_tx-{__version__}.data/data/share/man/man1/torsocks-tx.1"
IMPORT_ALL = f"""
import importlib, json, pkgutil, torsocks_tx
names = [m.name for m in pkgutil.walk_packages(torsocks_tx.__path__, "torsocks_tx.")]
places = [importlib.import_module(n).__file__ for n in names if not n.endswith({LEFT_OUT})]
print(json.dumps([torsocks_tx.__file__, *places]))
"""


def sources() -> set[str]:
    """Return the package's own files, as they are named in a wheel."""
    files = [*ROOT.glob("torsocks_tx/**/*.py"), ROOT / "torsocks_tx" / "py.typed", ROOT / PLUGIN]
    files += ROOT.glob("torsocks_tx/status/static/*")
    return {file.relative_to(ROOT).as_posix() for file in files}


def places_of_all_modules(environment: Environment) -> list[Path]:
    """Import every module there; return where each came from."""
    out = run([environment.python, "-c", IMPORT_ALL], environment.path)
    return [Path(place) for place in json.loads(out.splitlines()[-1])]


def lists_torsocks(help_text: str) -> bool:
    """Whether twistd's help names our command, with its description."""
    lines = [line.split(maxsplit=1) for line in help_text.splitlines()]
    return ["torsocks", "A SOCKS4, SOCKS4a and SOCKS5 server that speaks through Tor."] in lines


def test_run_time_requirements_are_few(requirements: list[str]) -> None:
    names = [Requirement(text).name for text in requirements]
    assert sorted(names) == ["Twisted", "h11", "txtorcon", "zope.interface"]


def test_wheel_requires_what_setup_cfg_lists(wheel: Path, requirements: list[str]) -> None:
    with ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    asked = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    unconditional = {str(wanted) for wanted in asked if not wanted.marker}
    assert unconditional == {str(Requirement(text)) for text in requirements}
    assert all("extra ==" in str(wanted.marker) for wanted in asked if wanted.marker)
    assert metadata["Requires-Python"] == ">=3.11"
    readme = (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert metadata.get_payload(decode=True).decode().strip() == readme  # type: ignore[union-attr]


def test_the_wheel_holds_the_package_the_plugin_the_manual_and_no_more(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = f"torsocks_tx-{__version__}.dist-info/"
    assert {name for name in names if not name.startswith(about)} == {*sources(), MANUAL}
    assert "torsocks_tx/py.typed" in names
    assert any(name.startswith(about) and name.endswith("/LICENSE") for name in names)


def test_the_source_distribution_can_be_tested(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {f.relative_to(ROOT).as_posix() for f in (ROOT / "tests").rglob("*.py")}
    others = {"Makefile", "LICENSE", "README.md", "CHANGELOG.md", "tools/setup", ".ci/run"}
    assert names >= sources() | tests | others


def test_a_wheel_install_shows_the_plugin(installed: Environment) -> None:
    assert not (installed.site / "setuptools").exists()
    assert lists_torsocks(installed.twistd("--help"))
    assert "Usage: torsocks-tx" in installed.twistd("--help", program="torsocks-tx")
    assert installed.twistd("--version", program="torsocks-tx").startswith("torsocks_tx ")
    assert (installed.path / "share" / "man" / "man1" / "torsocks-tx.1").exists()
    places = places_of_all_modules(installed)
    assert len(places) > 10
    assert all(place.is_relative_to(installed.site) for place in places)


def test_uninstalling_leaves_twisted_intact(installed: Environment, tmp_path: Path) -> None:
    installed.pip("uninstall", "--yes", "torsocks_tx", directory=tmp_path)
    assert not list(installed.path.rglob("torsocks-tx*"))
    text = installed.twistd("--help")
    assert "Commands:" in text
    assert not lists_torsocks(text)


def test_the_documented_editable_install_shows_the_plugin(
    editable: Environment, checkout: Path
) -> None:
    assert lists_torsocks(editable.twistd("--help"))
    places = places_of_all_modules(editable)
    assert len(places) > 10
    assert all(place.is_relative_to(checkout) for place in places)


def test_make_installs_as_documented() -> None:
    setup = (ROOT / "tools" / "setup").read_text(encoding="utf-8")
    assert "--config-settings editable_mode=compat -e " in setup
