"""What pyproject.toml asks for, what the constraints pin and what images install is one set of versions.

`just check` compares byte for byte with a new resolution; this needs neither uv nor a network.
"""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WRAPPER: dict[str, Any] = tomllib.loads(
    (ROOT / "wrapper/pyproject.toml").read_text(encoding="utf-8")
)
PINS = {
    canonicalize_name(pin.name): pin
    for pin in map(Requirement, PROJECT["tool"]["uv"]["constraint-dependencies"])
}
IMAGES = {
    "images/service/requirements.txt": PROJECT["project"]["dependencies"],
    "images/worker-base/requirements.txt": WRAPPER["project"]["dependencies"],
}


def _required(name: str) -> dict[NormalizedName, Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line.rstrip(" \\")) for line in lines if not line.startswith(" ")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_installs_the_pinned_versions(name: str) -> None:
    wrong = [
        str(requirement)
        for package, requirement in _required(name).items()
        if package not in PINS or PINS[package].specifier != requirement.specifier
    ]

    assert wrong == [], "run `just pins`"


@pytest.mark.parametrize(("name", "wanted"), IMAGES.items())
def test_an_image_installs_everything_that_is_needed_and_nothing_else(
    name: str, wanted: list[str]
) -> None:
    needed = _closure([Requirement(line) for line in wanted])
    here = {
        package
        for package, requirement in _required(name).items()
        if requirement.marker is None or requirement.marker.evaluate()
    }

    assert here == needed, "run `just pins`"


def test_everything_that_is_developed_with_is_pinned() -> None:
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]

    assert _closure(list(map(Requirement, wanted))) - PINS.keys() == set(), "run `just pins`"


def test_what_is_installed_here_is_what_is_pinned() -> None:
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    other = [
        f"{package} {installed[package]}, pinned {pin.specifier}"
        for package, pin in PINS.items()
        if package in installed and installed[package] not in pin.specifier
    ]

    assert other == [], "run `uv sync`"


@pytest.mark.parametrize("name", IMAGES)
def test_every_requirement_has_hashes_and_no_index_is_named(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    requirements = re.split(r"\n(?! )", text.strip())

    assert [line for line in requirements if "--hash=sha256:" not in line] == []
    assert "://" not in text
    assert "--index" not in text


def _closure(wanted: list[Requirement]) -> set[str]:
    """The names of all that these bring along on this machine."""
    found: set[str] = set()
    waiting = [(requirement, frozenset(requirement.extras)) for requirement in wanted]
    while waiting:
        requirement, extras = waiting.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for line in metadata.requires(name) or ():
            inner = Requirement(line)
            asked = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if inner.marker is not None and not any(inner.marker.evaluate(env) for env in asked):
                continue
            if canonicalize_name(inner.name) not in found or inner.extras:
                waiting.append((inner, frozenset(inner.extras)))
    return found
