"""A new virtual environment with the run-time requirements of torsocks_tx only.

The distributions are copied from the environment that runs the tests, so that no registry is asked:
those that ``setup.cfg`` names, and what they name in turn, each with its scripts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def run(command: Iterable[str | Path], directory: Path) -> str:
    """Run a command without our environment variables; return its output; fail if it fails."""
    unwanted = ("PYTHON", "PIP_", "VIRTUAL_ENV", "COV_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "COLUMNS": "200"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=directory,
        env=environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def closure_of(requirements: Iterable[str]) -> Iterator[Distribution]:
    """Yield the installed distributions that these requirements lead to, each once."""
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        found = distribution(requirement.name)
        for wanted in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), wanted)
            if key in seen:
                continue
            if wanted == "":
                yield found
            seen.add(key)
            waiting += [(Requirement(text), wanted) for text in found.requires or []]


class Environment:
    """A virtual environment below a directory."""

    def __init__(self, path: Path) -> None:
        venv.EnvBuilder(symlinks=True).create(path)
        self.path = path
        self.python = path / "bin" / "python"
        (self.site,) = path.glob("lib/python3*/site-packages")

    def copy(self, found: Distribution) -> None:
        """Copy an installed distribution with its scripts, which are made to use this Python."""
        for file in found.files or []:
            source = Path(str(found.locate_file(file))).resolve()
            target = Path(os.path.normpath(self.site / file))
            if not source.exists() or not target.is_relative_to(self.path):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            if target.parent == self.python.parent:
                target.write_text(target.read_text().replace(sys.prefix, str(self.path)))

    def pip(self, *arguments: str | Path, directory: Path) -> str:
        """Run the pip of the tests on this environment."""
        return run([sys.executable, "-m", "pip", "--python", self.python, *arguments], directory)

    def twistd(self, *arguments: str, program: str = "twistd") -> str:
        """Run this environment's twistd, or another program, away from any source tree."""
        script = self.python.with_name(program)
        assert str(self.path) in script.read_text().splitlines()[0]
        return run([script, *arguments], self.path)
