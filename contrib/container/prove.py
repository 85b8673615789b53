#!/usr/bin/env python3
"""Runs the steps of the Containerfile without a container engine, and then what it makes.

The steps are done in trees that debootstrap has made. What comes out runs as its own user, as the
first process of new namespaces, with a root that cannot be written and no way to the network: it
serves a private Tor network. Needs root, debootstrap, util-linux and curl, and a mirror of Debian's
and of Python's packages.

    contrib/container/prove.py [--base TREE]

``--base``: a tree of debootstrap (--variant=minbase bookworm) that is there already.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MIRROR = "http://deb.debian.org/debian"
DEADLINE = 170.0
PASSED_ON = ("PIP_CERT", "PIP_INDEX_URL", "SSL_CERT_FILE", "http_proxy", "https_proxy")
OBFS4_BRIDGE = (
    "obfs4 192.0.2.1:443 0123456789ABCDEF0123456789ABCDEF01234567"
    " cert=ssH+9rP8dG2NLDN2XuFw63hIO/9MNNinLmxQDpVa+7kTOa9/m+tGWT1SmSYpQ9uTBGa6Hw iat-mode=0"
)


@dataclass
class Image:
    """A tree, and what the Containerfile says of it."""

    tree: Path
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    volume: str = ""
    commands: dict[str, list[str]] = field(default_factory=dict)


def say(text: str) -> None:
    """Print a line."""
    print(f"prove: {text}", flush=True)


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Yield the instructions: the word and the rest; a backslash joins lines."""
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word and not word.startswith("#"):
            yield word, rest.strip()


@contextlib.contextmanager
def mounted(*mounts: tuple[str, Path]) -> Iterator[None]:
    """Mount /proc and files of this machine in a tree, for as long as it is built."""
    try:
        for source, target in mounts:
            kind = ["-t", "proc"] if source == "proc" else ["--bind"]
            target.touch(exist_ok=True) if Path(source).is_file() else target.mkdir(
                parents=True, exist_ok=True
            )
            subprocess.run(["mount", *kind, source, target], check=True)
        yield
    finally:
        for _, target in reversed(mounts):
            subprocess.run(["umount", "-l", target], check=False, stderr=subprocess.DEVNULL)


def run_step(image: Image, command: str) -> None:
    """Do a RUN in the tree."""
    tree = image.tree
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    (tree / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
    of_host = [("proc", tree / "proc"), ("/etc/resolv.conf", tree / "etc/resolv.conf")]
    if os.path.exists(certificates):
        of_host.append((certificates, tree / "etc/machine-certificates.crt"))
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    for name in ("PIP_CERT", "SSL_CERT_FILE"):
        if name in passed:
            passed[name] = "/etc/machine-certificates.crt"
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   "DEBIAN_FRONTEND": "noninteractive", **passed, **image.environment}  # fmt: skip
    with mounted(*of_host):
        ended = subprocess.run(
            ["chroot", tree, "/bin/sh", "-c", command],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if ended.returncode:
        sys.exit(
            f"prove: {command}: status {ended.returncode}\n{ended.stdout}{ended.stderr}"[-3000:]
        )


def copy_step(image: Image, text: str, stages: dict[str, Image]) -> None:
    """Do a COPY."""
    (*options,) = (word for word in shlex.split(text) if word.startswith("--"))
    *sources, target = (word for word in shlex.split(text) if not word.startswith("--"))
    place = stages[options[0].partition("=")[2]].tree if options else ROOT
    for source in sources:
        origin = place / source.lstrip("/")
        destination = image.tree / target.lstrip("/")
        if target.endswith("/"):
            destination.mkdir(parents=True, exist_ok=True)
        destination.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(origin, destination, symlinks=True, dirs_exist_ok=True, ignore=ignored)
        else:
            shutil.copy2(origin, destination)


def build(base: Path, work: Path) -> Image:
    """Do every step of the Containerfile; return the last stage."""
    stages: dict[str, Image] = {}
    image = Image(work)
    for word, rest in steps((HERE / "Containerfile").read_text()):
        say(f"{word} {rest}")
        if word == "FROM":
            name = rest.split(" AS ")[1] if " AS " in rest else "last"
            image = stages[name] = Image(work / name)
            subprocess.run(["cp", "-a", base, image.tree], check=True)
        elif word == "RUN":
            run_step(image, rest)
        elif word == "COPY":
            copy_step(image, rest, stages)
        elif word == "ENV":
            name, _, value = rest.partition("=")
            image.environment[name] = value
        elif word == "USER":
            image.user = rest
        elif word == "VOLUME":
            image.volume = rest
        elif word in ("ENTRYPOINT", "HEALTHCHECK"):
            image.commands[word] = json.loads(rest[rest.index("[") :])
        elif word not in ("EXPOSE", "STOPSIGNAL"):
            sys.exit(f"prove: what does {word} do?")
    return image


def become_first_process(image: Image, volume: Path, arguments: list[str]) -> None:
    """In new namespaces: make the root read-only, and become the entry point as the user."""
    request = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(request, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    request.close()
    tree = image.tree

    def mount(*words: object) -> None:
        subprocess.run(["mount", *map(str, words)], check=True)

    mount("--make-rprivate", "/")
    mount("--bind", tree, tree)
    mount("-t", "proc", "proc", tree / "proc")
    mount("-t", "tmpfs", "tmpfs", tree / "tmp")
    mount("--bind", volume, tree / image.volume.lstrip("/"))
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", tree / "dev")
    for name in ("null", "zero", "urandom", "random"):
        (tree / "dev" / name).touch()
        mount("--bind", f"/dev/{name}", tree / "dev" / name)
    mount("-o", "remount,bind,ro", tree)
    user, group = image.user.split(":")
    confined = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups",
                "--bounding-set=-all", "--no-new-privs"]  # fmt: skip
    environment = {"PATH": "/usr/bin:/usr/sbin:/bin", **image.environment}
    environment |= {k: v for k, v in os.environ.items() if k.startswith("TORSOCKS_")}
    os.chroot(tree)
    os.chdir("/")
    command = [*confined, *image.commands["ENTRYPOINT"], *arguments]
    os.execvpe("setpriv", command, environment)


started: list[subprocess.Popen[bytes]] = []


class Container:
    """What was built, running; ``log`` is what it has printed."""

    def __init__(self, image: Image, volume: Path, *arguments: str, **environment: str) -> None:
        self.image = image
        self.log = volume.with_name(f"log{len(started)}")
        plan = json.dumps([str(image.tree), image.environment, image.user, image.volume,
                           image.commands, str(volume), arguments])  # fmt: skip
        namespaces = ["unshare", "--fork", "--kill-child",
                      "--pid", "--mount", "--net", "--ipc", "--uts"]  # fmt: skip
        self.process = subprocess.Popen(
            [*namespaces, sys.executable, __file__, "--inside", plan],
            stdin=subprocess.DEVNULL, stdout=self.log.open("wb"), stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )  # fmt: skip

        started.append(self.process)

    @property
    def first(self) -> int:
        """The number that its first process has here."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as its user."""
        user, group = self.image.user.split(":")
        entering = ["nsenter", f"--target={self.first}", "--pid", "--mount", "--net", "--root",
                    "--wd", f"--setuid={user}", f"--setgid={group}"]  # fmt: skip
        return subprocess.run([*entering, *command], capture_output=True, text=True, check=False)

    def health(self) -> tuple[int, str]:
        """Do the health check; return its status, and what it printed."""
        ended = self.inside(*self.image.commands["HEALTHCHECK"])
        return ended.returncode, (ended.stdout + ended.stderr).strip()

    def wait_for(self, words: str) -> str:
        """Wait for a line of the log."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.process.poll() is None:
            if words in (text := self.log.read_text()):
                return text
            time.sleep(0.2)
        sys.exit(f"prove: it does not say {words!r}:\n{self.log.read_text()}")

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM to its first process; return its status and how long it took."""
        began = time.monotonic()
        os.kill(self.first, signal.SIGTERM)
        return self.process.wait(60), time.monotonic() - began


def must(is_so: bool, text: str) -> None:
    """Print whether something is so; end if it is not."""
    say(f"{'ok ' if is_so else 'NOT'} {text}")
    if not is_so:
        sys.exit(1)


def until(holds: Callable[[], bool]) -> bool:
    """Wait until this holds; whether it does."""
    end = time.monotonic() + DEADLINE
    while not (is_so := holds()) and time.monotonic() < end:
        time.sleep(0.5)
    return is_so


def prove_user(served: Container) -> None:
    """Look at the rights of its processes."""
    status = Path(f"/proc/{served.first}/status").read_text()
    facts = {line.split(":")[0]: line.split()[1:] for line in status.splitlines()}
    user = served.image.user.split(":")[0]
    must({*facts["Uid"]} == {user}, f"it is user {user}")
    must(facts["NSpid"][-1] == "1", "it is process 1")
    must(int(facts["CapEff"][0], 16) == int(facts["CapBnd"][0], 16) == 0, "it has no capability")
    written = served.inside("/bin/sh", "-c", "touch /x || touch /opt/x || touch /etc/x")
    must(written.returncode != 0, f"its root is read-only: {written.stderr.splitlines()[0]}")


def prove(image: Image, work: Path) -> None:
    """Run it, and look at it as an engine and its user would."""
    volume = work / "volume"
    volume.mkdir(mode=0o700)
    os.chown(volume, *map(int, image.user.split(":")))
    checked = Container(image, volume, "--check", TORSOCKS_BRIDGES=OBFS4_BRIDGE)
    must(checked.process.wait(60) == 0, "--check takes bridges of the environment, and tor does")

    served = Container(image, volume, TORSOCKS_OPTIONS="--tor private --workers 2")
    served.wait_for("SOCKS5 at 0.0.0.0:1080")
    code, word = served.health()
    must(code != 0, f"the health check fails while tor starts: {word}")
    text = served.wait_for("private network: visit http://web.test")
    must(until(lambda: served.health() == (0, "ready")), "it succeeds when tor is ready")
    page = re.search(r"visit (http://web\.test:\d+/)", text)
    assert page is not None
    client = ["nsenter", f"--target={served.first}", "--net", "curl", "-sS", "--max-time", "60"]
    fetched = subprocess.run([*client, "-x", "socks5h://127.0.0.1:1080", page[1]],
                             capture_output=True, text=True, check=False)  # fmt: skip
    must(fetched.returncode == 0, f"curl has a page by way of it: {len(fetched.stdout)} bytes")
    prove_user(served)
    status_code, seconds = served.stop()
    must(status_code == 0, f"SIGTERM ends it in order, in {seconds:.1f} s")

    launched = Container(image, volume, TORSOCKS_OPTIONS="--tor-option 'DisableNetwork 1'")
    launched.wait_for("SOCKS5 at")
    state = volume / "torsocks_tx/tor/state"
    must(until(state.exists), "the state of its own tor is in the volume")
    status_code, seconds = launched.stop()
    must(status_code == 0, f"SIGTERM ends it and its tor, in {seconds:.1f} s")
    left = subprocess.run(
        ["pgrep", "-u", image.user.split(":")[0]], capture_output=True, text=True, check=False
    )
    must(left.stdout == "", "nothing of its user runs any more")


def main() -> None:
    """Build, run and look."""
    if sys.argv[1:2] == ["--inside"]:
        tree, environment, user, place, commands, volume, arguments = json.loads(sys.argv[2])
        image = Image(Path(tree), environment, user, place, commands)
        become_first_process(image, Path(volume), arguments)
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path)
    asked = parser.parse_args()
    began = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="prove-"))
    try:
        base = asked.base
        if base is None:
            base = work / "base"
            say("debootstrap")
            made = ["debootstrap", "--variant=minbase", "bookworm", str(base), MIRROR]
            subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        image = build(base, work)
        size = subprocess.run(["du", "-sm", image.tree], capture_output=True, text=True, check=True)
        say(f"built in {time.monotonic() - began:.0f} s; {size.stdout.split()[0]} MB")
        prove(image, work)
        say(f"proven, in {time.monotonic() - began:.0f} s")
    finally:
        for process in started:
            process.kill()  # and with it the first process, and with that all others
            process.wait()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
