"""Systems other than Linux, simulated by removing what only Linux has."""

from __future__ import annotations

import os
import subprocess
import sys

ELSEWHERE = """
import importlib, os, pkgutil, select, socket
for module, names in ((select, "epoll EPOLL"), (socket, "TCP_INFO"), (os, "splice SPLICE sched")):
    for name in dir(module):
        if name.startswith(tuple(names.split())):
            delattr(module, name)
from twisted.internet import selectreactor
selectreactor.install()
import torsocks_tx
for module in pkgutil.walk_packages(torsocks_tx.__path__, "torsocks_tx."):
    if module.name != "torsocks_tx.web.scrapy_handler":  # its imports are optional
        importlib.import_module(module.name)
"""


def test_server_runs_without_features_of_linux() -> None:
    subprocess.run([sys.executable, "-c", ELSEWHERE], check=True, env={**os.environ, "LC_ALL": "C"})
