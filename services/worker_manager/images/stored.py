"""What images of ours an engine has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import docker

from services.worker_manager.runtimes.ends import moment
from services.worker_manager.runtimes.engine import Engine, absent_is_fine

UNCHECKED = "-unchecked"
"""Stands in the tag of an image until it has passed its checks."""

ImageKind = Literal["worker-image", "worker-base"]
KINDS: tuple[ImageKind, ...] = ("worker-image", "worker-base")


@dataclass(frozen=True, kw_only=True)
class ImageOnDisk:
    """A worker image of this engine, or a base of some."""

    tag: str
    id: str
    kind: ImageKind = "worker-image"
    agent: str = ""
    capabilities: tuple[str, ...] = ()
    size_bytes: int
    """With the layers it shares with others."""
    created_at: float
    """Unix time in seconds."""
    owner: tuple[str, str] | None = None
    """Crew and node that built it; the same tag serves every crew on the engine."""

    @property
    def checked(self) -> bool:
        """Whether it may be used."""
        return UNCHECKED not in self.tag


async def stored_images(engine: Engine, name: str | None = None) -> list[ImageOnDisk]:
    """All of them, of any crew, those that have not passed their checks too; or the one of this tag.

    Raises:
        EngineUnavailable: the engine does not answer.
    """
    found = await engine.call(_all if name is None else lambda client: _one(client, name))
    return [
        _image(image, image["Labels"], tag)
        for image in found
        if image["Labels"].get("jetcrew.kind") in KINDS
        for tag in image["RepoTags"] or ()
        if name in {None, tag}
    ]


def _all(client: docker.DockerClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.api.images(filters={"label": "jetcrew.kind"})
    return found


def _one(client: docker.DockerClient, name: str) -> list[dict[str, Any]]:
    """A list takes the engine a hundred times as long, even of one: it counts the bytes of all."""
    with absent_is_fine():
        image: dict[str, Any] = client.images.get(name).attrs
        made = moment(image["Created"])
        created = made.timestamp() if made else 0.0
        return [image | {"Labels": image["Config"]["Labels"] or {}, "Created": created}]
    return []


def _image(image: Mapping[str, Any], labels: Mapping[str, str], tag: str) -> ImageOnDisk:
    kind = next(kind for kind in KINDS if kind == labels["jetcrew.kind"])
    crew, node = labels.get("jetcrew.crew"), labels.get("jetcrew.node")
    return ImageOnDisk(
        tag=tag,
        id=image["Id"],
        kind=kind,
        agent=labels.get("jetcrew.agent", ""),
        capabilities=tuple(filter(None, labels.get("jetcrew.capabilities", "").split(","))),
        size_bytes=image["Size"],
        created_at=float(image["Created"]),
        owner=(crew, node) if crew and node else None,
    )
