"""Shared fixtures: real data when its folder is known, one thread for steady small tests."""

import os
import socket
from pathlib import Path

import pytest

# Several test processes share the cores; threads inside each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("QGRAFT_JOBS", "1")


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """Keep cached features of tests out of the user's cache."""
    monkeypatch.setenv("QGRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def mutants():
    """Return how many mutants to try: the number given, or a hundred times that by night.

    `make fuzz` sets QGRAFT_NIGHTLY.
    """
    return lambda number: number * (100 if os.environ.get("QGRAFT_NIGHTLY") else 1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]
            if host not in ("127.0.0.1", "::1", "localhost"):
                raise OSError(f"tests must not reach the network, tried {host}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of public data sets, or skip when `QGRAFT_DATA` does not name one."""
    folder = os.environ.get("QGRAFT_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("QGRAFT_DATA does not point at the public data sets")
    return Path(folder)
