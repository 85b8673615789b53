"""How the server starts and fails to: as a daemon, in the foreground, with workers, by systemd."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from stat import S_IMODE

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import UNIXClientEndpoint

from tests.support.peers import PeerFactory, until
from tests.support.processes import ROOT
from tests.support.rows import rows
from tests.support.running import Ended, Twistd, run
from tests.twistd.conftest import DIRECT, LOOPBACK
from torsocks_tx import ClientOptions, Credentials, SOCKSClientEndpoint

TWISTD = (sys.executable, str(Path(sys.executable).with_name("twistd")))
SCRIPT = (sys.executable, str(Path(sys.executable).with_name("torsocks-tx")))
MODULE = (sys.executable, "-m", "torsocks_tx")
# A module that would run instead of Python's own wherever the working directory comes first.
INTRUDER = "open('has-run', 'w').close()\n"


def lines_with(text: str, words: str) -> int:
    return sum(words in line for line in text.splitlines())


async def test_start_that_fails_is_one_line_status_1_and_no_pidfile(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        # The first listener can be opened, and must not stay behind.
        options = (*DIRECT, "--listen", "unix:socks", "--listen", text)
        ways = {
            "daemon": (*TWISTD, "torsocks", *options),
            "daemon with workers": (*TWISTD, "torsocks", *options, "--workers", "2"),
            "foreground": (*TWISTD, "-n", "torsocks", *options),
            "torsocks-tx": (*SCRIPT, *options),
        }
        outcomes: list[Deferred[Ended]] = []
        for way, command in ways.items():
            (tmp_path / way).mkdir()
            environment = {"PYTHONPATH": str(ROOT)}
            running = run(*command, cwd=tmp_path / way, environment=environment)
            outcomes.append(Deferred.fromCoroutine(running))
        for way, ended in zip(ways, await gatherResults(outcomes), strict=True):
            log = tmp_path / way / "twistd.log"
            said = log.read_text() if log.exists() else ended.text
            assert ended.status == 1, way
            assert lines_with(said, f"--listen {text}: Address already in use; end the") == 1, said
            assert "Traceback" not in said + ended.complaint
            left = ["twistd.log"] if way.startswith("daemon") else []
            # A daemon tells its parent that it failed before it removes its pidfile.
            await until(lambda way=way, left=left: os.listdir(tmp_path / way) == left)


@pytest.mark.parametrize("program", [SCRIPT, MODULE], ids=["torsocks-tx", "python -m"])
async def test_torsocks_tx_serves_in_the_foreground_and_writes_no_file(
    tmp_path: Path, program: tuple[str, ...]
) -> None:
    command = (*program, *DIRECT, "--listen", LOOPBACK)
    server = Twistd(directory=tmp_path, command=command)
    await server.up()
    assert os.listdir(tmp_path) == []
    assert await server.stop() == 0
    usage = await run(*program, "--bogus", environment={"PYTHONPATH": str(ROOT)})
    assert (usage.status, usage.out) == (1, b"")
    assert lines_with(usage.complaint, "torsocks-tx: option --bogus") == 1


async def test_workers_run_nothing_from_the_working_directory(tmp_path: Path) -> None:
    for name in ("json.py", "runpy.py", "sitecustomize.py", "OpenSSL.py", "twisted.py"):
        (tmp_path / name).write_text(INTRUDER)
    server = Twistd(*DIRECT, "--workers", "2", "--listen", LOOPBACK, directory=tmp_path)
    await server.said("2 workers serve")
    await server.stop()
    assert not (tmp_path / "has-run").exists()


async def test_password_file_is_judged_by_the_user_that_serves(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("alice:secret\n")
    passwords.chmod(0)
    # Root may read it, and nobody else.
    user = ("--uid", "65534") if os.geteuid() == 0 else ()
    command = (*TWISTD, "-n", "--pidfile=", *user, "torsocks", *DIRECT)
    ended = await run(*command, "--listen", LOOPBACK, "--auth", f"file:{passwords}")
    assert ended.status == 1
    told = f"--auth file:{passwords}: Permission denied"
    assert lines_with(ended.text + ended.complaint, told) == 1


@rows("R-33")
async def test_uid_leaves_nothing_of_root_and_umask_opens_no_socket(tmp_path: Path) -> None:
    place = tmp_path / "socks"
    # Only root can become another user.
    user = ["--uid", "65534"] if os.geteuid() == 0 else []
    server = Twistd(
        *DIRECT, "--listen", f"unix:{place}", directory=tmp_path,
        of_twistd=["--umask", "0", *user],
    )  # fmt: skip
    await server.up()
    status = Path(f"/proc/{server.pid}/status").read_text()
    ids = {line.split(":")[0]: line.split()[1:] for line in status.splitlines()}
    for numbers in (ids["Uid"], ids["Gid"], ids["Groups"]):
        assert os.geteuid() != 0 or "0" not in numbers
    assert int(ids["CapEff"][0], 16) == 0 or os.geteuid() != 0
    assert S_IMODE(place.stat().st_mode) == 0o600
    await server.stop()


async def test_relative_paths_and_a_reload_without_a_file(tmp_path: Path) -> None:
    """With workers, and in another directory; nothing changes while the file is missing."""
    passwords = tmp_path / "passwords"
    passwords.write_text("alice:secret\n")
    server = Twistd(
        *DIRECT, "--workers", "2", "--listen", "unix:socks", "--auth", "file:passwords",
        directory=tmp_path, of_twistd=["--rundir", "/"],
    )  # fmt: skip
    await server.said("2 workers serve")

    async def log_in() -> None:
        origins = PeerFactory()
        port = reactor.listenTCP(0, origins, interface="127.0.0.1")
        options = ClientOptions(credentials=Credentials(b"alice", b"secret"), timeout=20)
        proxy = UNIXClientEndpoint(reactor, str(tmp_path / "socks"))
        place = ("127.0.0.1", port.getHost().port)
        client = await SOCKSClientEndpoint(reactor, proxy, *place, options).connect(PeerFactory())
        (await origins.peer()).reset()
        client.reset()
        await port.stopListening()

    await log_in()
    passwords.rename(tmp_path / "away")
    os.kill(server.pid, signal.SIGHUP)
    await server.said("what was read before stands")
    told = f"SIGHUP: a new worker cannot start: --auth file:{passwords}: No such file"
    assert lines_with(server.output, told) == lines_with(server.output, "cannot start") == 1
    (tmp_path / "away").rename(passwords)
    await log_in()
    os.kill(server.pid, signal.SIGHUP)
    await server.said("SIGHUP: the workers have been started anew")
    await log_in()
    assert await server.stop() == -signal.SIGTERM
    assert sorted(os.listdir(tmp_path)) == ["passwords"]


async def test_inherited_unix_socket_is_served_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "socks"
    with socket.socket(socket.AF_UNIX) as maker:
        maker.bind(str(path))
        path.chmod(0o660)
        maker.listen(128)
        for workers in ("1", "2"):
            server = Twistd(
                *DIRECT, "--listen", "systemd:domain=UNIX:index=0", "--workers", workers,
                directory=tmp_path, inherited=maker.fileno(),
            )  # fmt: skip
            await server.up()
            client = await UNIXClientEndpoint(reactor, str(path)).connect(PeerFactory())
            client.send(b"\5\1\0")
            assert await client.take(2) == b"\5\0"
            client.reset()
            assert S_IMODE(path.stat().st_mode) == 0o660
            assert await server.stop() == -signal.SIGTERM
            assert S_IMODE(path.stat().st_mode) == 0o660


async def test_inherited_file_that_is_no_socket_is_refused_in_one_line() -> None:
    line = f'PYTHONPATH={ROOT} LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=x exec "$@" 3</dev/null'
    ended = await run("/bin/sh", "-c", line, "sh", *MODULE, *DIRECT)
    assert ended.status == 1 == lines_with(ended.text, "index=0: Socket operation on non-socket")
