"""The matrix of real agents: run, written down, and compared with the newest releases.

python -m tests.bench.matrix             run it on the pinned versions; write docs/reference/agents.json
python -m tests.bench.matrix --latest    run it on the newest versions; print what differs, change nothing
python -m tests.bench.matrix … NAME…     only these agents
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.support.clis import AGENTS, AGENTS_VARIABLE
from wrapper.agent import load_agent

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "docs" / "reference" / "agents.json"
SUITES = ("tests/integration/test_agents_matrix.py", "tests/integration/test_agents_docker.py")

Rows = dict[str, dict[str, Any]]
"""By what is promised: whether it was `kept`, and the `seconds` that took."""


def main(arguments: list[str]) -> int:
    """Do what the arguments say; the exit code."""
    chosen = [name for name in arguments if not name.startswith("-")]
    names = chosen or [path.stem for path in sorted(AGENTS.glob("*.toml")) if _package(path.stem)]
    if "--latest" in arguments:
        return _latest(names)
    agents = {
        name: {"version": load_agent(AGENTS / f"{name}.toml").version, "rows": rows}
        for name, rows in _run(names, AGENTS).items()
    }
    written = json.loads(WRITTEN.read_text())["agents"] if WRITTEN.exists() else {}
    document = {"agents": dict(sorted((written | agents).items()))}
    WRITTEN.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    return 0


def _latest(names: list[str]) -> int:
    written = json.loads(WRITTEN.read_text())["agents"]
    with tempfile.TemporaryDirectory() as folder:
        newer = [name for name in names if _renewed(name, Path(folder))]
        for name, rows in _run(newer, Path(folder), suites=SUITES[:1]).items():
            before: Rows = written.get(name, {}).get("rows", {})
            changed = [
                f"  {row}: {'kept' if now['kept'] else 'broken'}, {now['seconds']} s"
                for row, now in rows.items()
                if now["kept"] != before.get(row, now)["kept"]
            ]
            print(f"{name}:", *(changed or ["  as before"]), sep="\n")
    return 0


def _renewed(name: str, folder: Path) -> bool:
    """Whether there is a newer release; `folder` gets a file for the agent that installs it."""
    package, pinned = str(_package(name)).rsplit("@", 1)
    view = ["npm", "view", package, "version"]
    newest = subprocess.run(view, check=True, capture_output=True, text=True).stdout.strip()
    print(f"{name}: {pinned} is the newest" if newest == pinned else f"{name}: {pinned} → {newest}")
    text = (AGENTS / f"{name}.toml").read_text().replace(f"@{pinned}", f"@{newest}")
    (folder / f"{name}.toml").write_text(
        text.replace(f'version = "{pinned}"', f'version = "{newest}"')
    )
    return newest != pinned


def _package(name: str) -> str | None:
    return next(iter(load_agent(AGENTS / f"{name}.toml").install.npm), None)


def _run(names: list[str], agents: Path, *, suites: tuple[str, ...] = SUITES) -> dict[str, Rows]:
    """The rows of each agent; a row that was skipped is left out."""
    found: dict[str, Rows] = {}
    for name in names:
        with tempfile.NamedTemporaryFile(suffix=".xml") as report:
            subprocess.run(
                [
                    sys.executable, "-m", "pytest", "-q", *suites, "-m", "soak or not soak",
                    "-k", f"{name}]", f"--junitxml={report.name}",
                ],
                cwd=ROOT, check=False,
                env=os.environ | {AGENTS_VARIABLE: str(agents)},  # noqa: TID251  # tests have no settings
            )  # fmt: skip
            found[name] = _rows(Path(report.name))
    return found


def _rows(report: Path) -> Rows:
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return {
        re.sub(r"\[.*", "", case.get("name", "")).removeprefix("test_").replace("_", " "): {
            "kept": case.find("failure") is None and case.find("error") is None,
            "seconds": round(_seconds(case)),
        }
        for case in cases
        if case.find("skipped") is None
    }


def _seconds(case: ElementTree.Element) -> float:
    """As the test itself says where it shared its wait with others, else of all that it did."""
    said = case.find("properties/property[@name='seconds']")
    return float(case.get("time", "0") if said is None else said.get("value", "0"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
