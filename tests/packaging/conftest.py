"""Distributions and environments, built once for all tests of this directory."""

from __future__ import annotations

import re
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.packaging.environment import Environment, closure_of, run
from tools.newcomer import LEFT_OUT, ROOT


@pytest.fixture(scope="session")
def settings() -> ConfigParser:
    """The package's settings."""
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="session")
def requirements(settings: ConfigParser) -> list[str]:
    """The run-time requirements of the package."""
    return settings["options"]["install_requires"].strip().splitlines()


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution of a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree") / "clone"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run([sys.executable, "-c", code, tree.parent], tree)
    (made,) = tree.parent.glob("*.tar.gz")
    return made


@pytest.fixture(scope="session")
def wheel(sdist: Path) -> Path:
    """A wheel, built from the source distribution."""
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(sdist.parent)]
    run([sys.executable, "-m", "pip", "wheel", *options, sdist], sdist.parent)
    (made,) = sdist.parent.glob("*.whl")
    return made


@pytest.fixture
def installed(wheel: Path, requirements: list[str], tmp_path: Path) -> Environment:
    """An environment with the wheel and what it asks for."""
    environment = Environment(tmp_path / "environment")
    for found in closure_of(requirements):
        environment.copy(found)
    environment.pip("install", "--no-deps", wheel, directory=tmp_path)
    return environment


@pytest.fixture
def checkout(sdist: Path, tmp_path: Path) -> Path:
    """The source distribution, unpacked."""
    run(["tar", "-xzf", sdist], tmp_path)
    return tmp_path / sdist.name.removesuffix(".tar.gz")


@pytest.fixture
def editable(checkout: Path, requirements: list[str]) -> Environment:
    """An environment with the editable install that the README documents."""
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    documented = re.search(r"pip install ([^\n`]*-e) \.", readme)
    assert documented, "README.md documents no editable install"
    environment = Environment(checkout.parent / "environment")
    for found in closure_of([*requirements, "setuptools", "wheel"]):
        environment.copy(found)
    command = ["install", "--no-deps", "--no-build-isolation", *documented[1].split(), checkout]
    environment.pip(*command, directory=checkout.parent)
    return environment
