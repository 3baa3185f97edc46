"""The README, followed by somebody who has nothing but a copy of the repository, Python and a package index.

Every command of its ``console`` blocks runs in order, as it stands there, in one shell with an empty home and environment; each must
succeed and print the lines shown under it, in which ``…`` stands for anything. Two commands are met halfway. ``make ui`` serves until it
is interrupted: it is waited for, and then gets its Ctrl-C. ``make test`` would start this suite inside itself: it installs and runs as
written, but PYTEST_ADDOPTS narrows it to one file of tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_pipeline.study import load_study

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()
ONE_FILE_OF_TESTS = "tests/store/test_artifacts.py"
MOST_SECONDS = 2_700
"""For all commands together; on two quiet cores they take some twenty minutes, installing twice included."""
SERVES = "make ui"
"""The one command that runs until it is interrupted."""

INDEX = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
"""How a machine reaches its package index; all that the newcomer's environment keeps besides a path without this environment's programs."""

DONE = "the command ended with"


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(command, lines shown under it) of the ``console`` blocks, in order."""
    found: list[tuple[str, list[str]]] = []
    for line in (line for language, block in blocks(text) if language == "console" for line in block.splitlines()):
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return found


def without_remark(command: str) -> str:
    return re.sub(r"\s+#.*", "", command)


class Newcomer:
    """A copy of the repository and one shell in it: what a command changes (a folder, an environment) holds for those after it."""

    def __init__(self, copy: Path, home: Path) -> None:
        self.copy = copy
        ours = Path(sys.prefix, "bin") if sys.prefix != sys.base_prefix else None
        path = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != ours)
        kept = {name: value for name, value in os.environ.items() if name.startswith(INDEX)}
        self.environment = kept | {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", "PYTEST_ADDOPTS": ONE_FILE_OF_TESTS}
        # A command that hangs ends the test instead of holding it up for ever.
        self._watchdog = threading.Timer(MOST_SECONDS, self.close)
        self._watchdog.start()
        self._shell = self.start("bash", "--noprofile", "--norc", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def start(self, *arguments: str, **streams: int) -> subprocess.Popen[str]:
        """A process group of its own in the copy, which Ctrl-C reaches."""
        return subprocess.Popen(
            arguments, cwd=self.copy, env=self.environment, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **streams,
        )  # fmt: skip

    def run(self, command: str) -> tuple[int, list[str]]:
        """Exit status and lines printed of a command that ends by itself."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null; printf '\\n{DONE} %s\\n' $?\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(DONE):
                return int(line.split()[-1]), lines
            lines.append(line.rstrip("\n"))
        raise AssertionError("\n".join(["the shell ended", *lines]))

    def close(self) -> None:
        """End the shell and what it started."""
        self._watchdog.cancel()
        if self._shell.poll() is None:
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """A clone of the last commit, with what was changed since and would be committed."""
    folder = tmp_path_factory.mktemp("newcomer")
    copy, home = folder / "sae_pipeline", folder / "home"
    git = ["git", "-C", str(REPOSITORY)]
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(copy)], check=True)
    changed = subprocess.run([*git, "ls-files", "-z", "--modified", "--others", "--exclude-standard"], capture_output=True, text=True, check=True)
    for name in filter(None, changed.stdout.split("\0")):
        if not (REPOSITORY / name).exists():
            (copy / name).unlink(missing_ok=True)
            continue
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, copy / name)
    home.mkdir()
    pip = Path.home() / ".config" / "pip"
    if pip.is_dir():
        shutil.copytree(pip, home / ".config" / "pip")
    somebody = Newcomer(copy, home)
    yield somebody
    somebody.close()
    shutil.rmtree(folder)


def missing(shown: list[str], printed: list[str]) -> list[str]:
    """The lines shown, in their order, that were not printed; ``…`` stands for anything."""
    rest = iter(printed)
    patterns = [(line, re.compile(".*".join(map(re.escape, line.split("…"))))) for line in shown]
    return [line for line, pattern in patterns if not any(pattern.fullmatch(found.rstrip()) for found in rest)]


def test_nothing_that_looks_like_a_command_is_left_out() -> None:
    told = blocks(README)
    assert {language for language, _ in told} == {"", "console", "yaml", "python"}
    for language, block in told:
        if not language:
            assert not re.search(r"^\s*(\$|#|make|pip|python|sae-pipeline|git|docker|kubectl)\b", block, re.MULTILINE), block
    assert SERVES in [without_remark(command) for command, _ in commands(README)]


def test_the_first_page_of_the_documentation_shows_commands_of_the_readme() -> None:
    known = {without_remark(command) for command, _ in commands(README)}
    assert {without_remark(command) for command, _ in commands((REPOSITORY / "docs" / "index.md").read_text())} <= known


def test_the_study_shown_is_accepted(tmp_path: Path) -> None:
    (study,) = [block for language, block in blocks(README) if language == "yaml"]
    (tmp_path / "shown.yaml").write_text(study)
    assert load_study(tmp_path / "shown.yaml").name == "quickstart"


@pytest.mark.release
@pytest.mark.timeout(0)  # its own watchdog ends it
@pytest.mark.parametrize(("command", "shown"), commands(README), ids=[without_remark(command) for command, _ in commands(README)])
def test_the_command_succeeds_and_prints_what_is_shown(newcomer: Newcomer, command: str, shown: list[str]) -> None:
    if without_remark(command) == SERVES:
        assert_serves(newcomer, command)
        return
    status, printed = newcomer.run(command)
    assert status == 0, "\n".join(printed)
    assert not missing(shown, printed), "\n".join(printed)
    for line in printed:
        if line.startswith(f"{newcomer.copy}{os.sep}"):
            assert Path(line).is_file(), line


def assert_serves(newcomer: Newcomer, command: str) -> None:
    """The address beside the command answers with the study's assets, and Ctrl-C ends everything that was started."""
    (address,) = re.findall(r"http://[\w.:]+", command)
    host, port = address.removeprefix("http://").split(":")
    with socket.socket() as free:
        assert free.connect_ex((host, int(port))), f"{address} is taken by another program, so it cannot be what the README says"
    question = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": "{assetNodes {assetKey {path}}}"}).encode(), {"Content-Type": "application/json"}
    )
    server = newcomer.start("bash", "-c", command, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 180
        while True:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(1)
            try:
                with urllib.request.urlopen(question, timeout=60) as answer:
                    assets = {tuple(node["assetKey"]["path"]) for node in json.load(answer)["data"]["assetNodes"]}
            except OSError:
                continue
            if assets:
                break
        assert ("quickstart", "comparison_report") in assets
        os.killpg(server.pid, signal.SIGINT)
        server.wait(60)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(question, timeout=10)


@pytest.mark.release
@pytest.mark.timeout(0)  # its own watchdog ends it
def test_the_notebook_example_runs_without_dagster(newcomer: Newcomer) -> None:
    (code,) = [block for language, block in blocks(README) if language == "python"]
    (newcomer.copy / "notebook.py").write_text(code + "\nimport sys\nassert 'dagster' not in sys.modules\n")
    status, printed = newcomer.run(".venv/bin/python notebook.py")
    assert status == 0, "\n".join(printed)
