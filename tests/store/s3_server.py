"""A real S3-compatible server on loopback, a process of its own from the moto package."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

# One request at a time: this server looks whether a key is there and then writes it, which between threads would not exclude.
PROGRAM = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
server = DomainDispatcherApplication(create_backend_app)

def older(environ, start_response):
    environ.pop("HTTP_IF_NONE_MATCH", None)
    return server(environ, start_response)

run_simple(sys.argv[1], int(sys.argv[2]), older if sys.argv[3] == "True" else server, threaded=False)
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "not-to-be-shown", "AWS_DEFAULT_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class S3Server:
    """The server, which forgets everything when it stops; ``bucket`` is made when it starts. An older one ignores conditions on writing."""

    def __init__(
        self, log: Path, host: str = "127.0.0.1", bucket: str = "lab", prefix: tuple[str, ...] = (), *, ignores_conditions: bool = False
    ) -> None:
        self.log, self.host, self.bucket, self.port, self._prefix = log, host, bucket, free_port(), prefix
        self._ignores_conditions = ignores_conditions
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self, address: str | None = None) -> dict[str, str]:
        """What points a process at the server, under the address by which it knows it."""
        return CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://{address or self.host}:{self.port}"}

    def point(self, monkeypatch: pytest.MonkeyPatch, address: str | None = None) -> None:
        """Point this process at the server; connections to another one are forgotten."""
        import s3fs

        for name, value in self.environment(address).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()

    def start(self) -> None:
        with self.log.open("ab") as log:
            line = [*self._prefix, sys.executable, "-c", PROGRAM, self.host, str(self.port), str(self._ignores_conditions)]
            self._process = subprocess.Popen(line, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        make = f"import s3fs; s3fs.S3FileSystem().mkdir('{self.bucket}')"
        while subprocess.run([*self._prefix, sys.executable, "-c", make], env={**os.environ, **self.environment()}, capture_output=True).returncode:
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def requests(self) -> list[str]:
        """Method and path of every request so far."""
        return re.findall(r'"((?:GET|PUT|POST|DELETE|HEAD) \S+) HTTP', self.log.read_text())
