"""`.ci/browser`: it fetches what the tests of pages need, and a mirror that is away or hangs ends nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci/browser"
TOOLS = ("bash", "dirname", "mkdir", "touch", "sleep", "env")
FOUND = "command -v chromium > /dev/null && test -f build/axe/node_modules/axe-core/axe.min.js"
MIRROR = {
    "works": 'case "$*" in *--no-download*) touch "$TOOLS/chromium"; chmod +x "$TOOLS/chromium";; esac',
    "is away": "exit 100",
    "hangs": "exec sleep 60",
}
REGISTRY = {"works": "mkdir -p build/axe/node_modules/axe-core; touch build/axe/node_modules/axe-core/axe.min.js"}


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """The only folder on the path: a machine without chromium, on which nobody waits for more than a second."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (*TOOLS, "chmod"):
        (folder / name).symlink_to(str(shutil.which(name)))
    write(folder / "timeout", f'exec {shutil.which("timeout")} --kill-after 1 1 "${{@:4}}"')
    write(tmp_path / "project/.venv/bin/python", FOUND)
    (tmp_path / "project/.ci").mkdir()
    shutil.copy(SCRIPT, tmp_path / "project/.ci")
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(0o755)


def run(tools: Path, user: int, mirror: str | None, registry: str | None) -> tuple[int, str, list[str]]:
    """Its exit code, what it says, and the words of each call of apt-get."""
    calls = tools.parent / "calls"
    calls.touch()
    write(tools / "id", f"echo {user}")
    if mirror is not None:
        write(tools / "apt-get", f'echo "$*" >> {calls}\n{MIRROR[mirror]}')
    if registry is not None:
        write(tools / "npm", REGISTRY.get(registry) or MIRROR[registry])
    environment = {**os.environ, "PATH": str(tools), "TOOLS": str(tools)}
    script = tools.parent / "project/.ci/browser"
    ran = subprocess.run([script], env=environment, capture_output=True, text=True, timeout=60)
    return ran.returncode, ran.stderr, calls.read_text().splitlines()


def test_both_are_fetched_and_then_found(tools: Path) -> None:
    code, said, calls = run(tools, 0, "works", "works")
    assert (code, said) == (0, "")
    assert [next(word for word in call.split() if word in ("update", "install")) for call in calls] == [
        "update", "install", "install",
    ]  # fmt: skip
    code, _, again = run(tools, 0, "works", None)
    assert code == 0 and again == calls, "both are there, and nothing is fetched again"


@pytest.mark.parametrize("state", ["is away", "hangs"])
def test_who_cannot_be_reached_is_named_and_not_waited_for(tools: Path, state: str) -> None:
    code, said, calls = run(tools, 0, state, state)
    assert code != 0 and "chromium could not be downloaded" in said and "axe-core could not be fetched" in said
    assert not any("--no-download" in call for call in calls)


def test_nobody_else_than_root_installs(tools: Path) -> None:
    code, said, calls = run(tools, 1000, "works", "works")
    assert code != 0 and calls == [] and "only root" in said


def test_a_machine_without_apt_or_npm(tools: Path) -> None:
    code, said, _ = run(tools, 0, None, None)
    assert code != 0 and "chromium is missing" in said and "no npm" in said
