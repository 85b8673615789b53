"""Runs ``make test`` as in a new clone, on a machine without the client programs but with tor.

It uses a copy of the tree, a new environment, and a PATH without the clients. It fails unless the
run passes and names each missing client.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Among it is what other runs may write and remove meanwhile.
LEFT_OUT = shutil.ignore_patterns(
    *(".git", ".venv*", "build", "dist", "*.egg-info"),
    *("__pycache__", ".*_cache", ".hypothesis", "*dropin.cache*"),
)


def clients() -> set[str]:
    """Return every program that the tests run, but for those of tor itself."""
    command = [str(ROOT / "tools" / "setup"), "clients"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {name for name in known if name not in ("tor", "tor-resolve")}


def link_all_but(hidden: set[str], directory: Path) -> None:
    """Link every program of this PATH into a directory but the hidden ones."""
    directory.mkdir()
    for place in (*os.get_exec_path(), "/usr/local/sbin", "/usr/sbin", "/sbin"):
        for program in Path(place).glob("*"):
            link = directory / program.name
            if program.name not in hidden and not os.path.lexists(link):
                link.symlink_to(program)


def main() -> int:
    """Run it; return the exit status."""
    # The last two come with the extra "dev", which a newcomer has not.
    hidden = clients() | {"playwright", "scrapy"}
    with tempfile.TemporaryDirectory(prefix="newcomer-") as text:
        directory = Path(text)
        shutil.copytree(ROOT, directory / "clone", ignore=LEFT_OUT, symlinks=True)
        link_all_but(hidden, directory / "sbin")
        unset = ("CI", "TORSOCKS_TX_NO_SKIP", "VIRTUAL_ENV")
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        environment |= {
            "PATH": str(directory / "sbin"),
            "PYTHON": str(Path(sys.executable).resolve()),
        }
        with subprocess.Popen(
            ["make", "test"],
            cwd=directory / "clone",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as run:
            assert run.stdout is not None
            last = ""
            for line in run.stdout:
                print(line, end="", flush=True)
                last = line
    expected = f"Not installed, so their tests were skipped: {', '.join(sorted(hidden))}.\n"
    if run.returncode == 0 and last != expected:
        print(f"The last line should be: {expected}", end="")
        return 1
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
