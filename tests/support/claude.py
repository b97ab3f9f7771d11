"""The real Claude Code CLI, installed once from its npm package."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from wrapper.agent import load_agent

AGENT_FILE = Path(__file__).resolve().parents[2] / "images" / "agents" / "claude.toml"
INSTALL = 600
"""Seconds that the installation may take: 360 MB."""


def claude_cli() -> Path:
    """Directory that holds `claude`, in the version that jetcrew pins.

    It is installed below the user's cache at the first call. Where it cannot be had, the test is
    skipped; in CI that is a failure.
    """
    [package] = load_agent(AGENT_FILE).install.npm
    version = package.rpartition("@")[2]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # noqa: TID251  # tests have no settings
    home = cache / "jetcrew-tests" / f"claude-{version}"
    binary = home / "node_modules" / ".bin" / "claude"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        home = Path(tempfile.gettempdir(), f"jetcrew-tests-{os.getuid()}", home.name)
        home.mkdir(parents=True, exist_ok=True)
    with (home.parent / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _works(binary, version):
            _install(package, home)
        if not _works(binary, version):
            _give_up(f"{binary} --version does not say {version}")
    return binary.parent


def _works(binary: Path, version: str) -> bool:
    if not binary.exists():
        return False
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    return said.stdout.startswith(version)


def _install(package: str, home: Path) -> None:
    if shutil.which("npm") is None:
        _give_up("npm is not installed")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL, check=False)
    if done.returncode:
        _give_up(f"npm install {package}: {done.stderr[-500:]}")


def _give_up(why: str) -> None:
    if os.environ.get("CI"):  # noqa: TID251  # tests have no settings
        pytest.fail(f"no claude: {why}")
    pytest.skip(f"no claude: {why}")
