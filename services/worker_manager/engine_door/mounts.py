"""What a worker's containers may mount: volumes of its own, its workspace, memory. Never a path of the host."""

import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from services.worker_manager.engine_door import fields as f
from services.worker_manager.engine_door.owner import Belongings, Owner, new_name
from services.worker_manager.engine_door.refusal import Refusal
from services.worker_manager.runtimes.profile import WORKSPACE

SUBPATHS_SINCE = 45
"""Minor version of the API that can mount a directory of a volume."""
_BIND_OPTIONS = frozenset({"rw", "ro", "z", "Z", "nocopy", "cached", "delegated", "consistent", ""})
MOUNT = f.fields(
    {
        "Type": f.one_of("volume", "tmpfs", "bind"),
        "Source": f.text,
        "Target": f.text,
        "ReadOnly": f.flag,
        "VolumeOptions": f.fields({"NoCopy": f.flag, "Labels": f.nothing, "Subpath": f.text}),
        "TmpfsOptions": f.fields({"SizeBytes": f.number(0, 2**50), "Mode": f.number(0, 0o1777)}),
        "BindOptions": f.fields(
            {"CreateMountpoint": f.nothing, "Propagation": f.one_of("rprivate")}
        ),
    }
)
Mount = dict[str, Any]


class Mounts:
    """The mounts of one container to be."""

    def __init__(self, owner: Owner, own: Belongings, workspace: str, version: int | None) -> None:
        self._owner = owner
        self._own = own
        self._workspace = workspace
        self._subpaths = version is None or version >= SUBPATHS_SINCE
        self._new: set[str] = set()

    @property
    def new(self) -> frozenset[str]:
        """Named volumes among them that are not there yet."""
        return frozenset(self._new)

    def all(
        self,
        binds: Iterable[str],
        mounts: Iterable[Mapping[str, Any]],
        anonymous: Iterable[str],
        memory: Iterable[str],
    ) -> list[Mount]:
        """All of them in the one form that is sent. Every volume carries the worker's labels, also those
        that an image asks for: the engine would make them without.

        Raises:
            Refusal: something of the host's, or of somebody else's.
        """
        made = [self._bind(each) for each in binds]
        made += [self._mount(each) for each in mounts]
        taken = {posixpath.normpath(path) for path in memory} | {each["Target"] for each in made}
        for path in map(_target, anonymous):
            if path not in taken:
                taken.add(path)
                made.append(self._volume("", path, read_only=False, options={}))
        return made

    def _bind(self, text: str) -> Mount:
        source, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        options = set(mode.split(","))
        if not source or not target or not options <= _BIND_OPTIONS:
            raise Refusal(f"HostConfig.Binds: {text[:200]!r} is not VOLUME:PATH[:ro]")
        nocopy = {"NoCopy": True} if "nocopy" in options else {}
        return self._from(source, _target(target), read_only="ro" in options, options=nocopy)

    def _mount(self, mount: Mapping[str, Any]) -> Mount:
        kind, source = mount.get("Type", "volume"), mount.get("Source", "")
        target, read_only = _target(mount.get("Target", "")), mount.get("ReadOnly", False)
        if kind == "tmpfs":
            if source:
                raise Refusal("HostConfig.Mounts: a tmpfs has no source", 400)
            options = mount.get("TmpfsOptions", {})
            return {"Type": kind, "Target": target, "ReadOnly": read_only, "TmpfsOptions": options}
        if kind == "bind" and not source.startswith("/"):
            raise Refusal(f"HostConfig.Mounts: {source[:200]!r} is not a path", 400)
        return self._from(
            source, target, read_only=read_only, options=mount.get("VolumeOptions", {})
        )

    def _from(
        self, source: str, target: str, *, read_only: bool, options: Mapping[str, Any]
    ) -> Mount:
        """A path stands for what the worker sees there: of its workspace, that is a volume."""
        if not source.startswith("/"):
            return self._volume(source, target, read_only=read_only, options=options)
        path = posixpath.normpath(source)
        if not self._workspace or (path != WORKSPACE and not path.startswith(f"{WORKSPACE}/")):
            raise Refusal(
                f"the path {source[:200]!r} is not mounted: no path of the host is. Only volumes, and "
                f"what is below {WORKSPACE}"
            )
        below = path.removeprefix(WORKSPACE).removeprefix("/")
        inner = {**options, **({"Subpath": below} if below else {})}
        return self._volume(self._workspace, target, read_only=read_only, options=inner)

    def _volume(
        self, name: str, target: str, *, read_only: bool, options: Mapping[str, Any]
    ) -> Mount:
        if name and name not in self._own.volumes and name != self._workspace:
            self._new.add(new_name(name, "volume"))
        chosen: dict[str, Any] = {}
        if options.get("NoCopy"):
            chosen["NoCopy"] = True
        if below := options.get("Subpath"):
            chosen["Subpath"] = self._subpath(below)
        if not name:
            chosen["Labels"] = self._owner.labels
        mount = {"Type": "volume", "Target": target, "ReadOnly": read_only, "VolumeOptions": chosen}
        return {**mount, "Source": name} if name else mount

    def _subpath(self, path: str) -> str:
        if not self._subpaths:
            raise Refusal(
                f"a directory of a volume can be mounted from API version 1.{SUBPATHS_SINCE} on; "
                f"mount all of {WORKSPACE}",
                400,
            )
        if path.startswith("/") or ".." in path.split("/"):
            raise Refusal(f"{path[:200]!r} leads out of the volume")
        return path


def _target(path: str) -> str:
    if not path.startswith("/") or ":" in path or posixpath.normpath(path) == "/":
        raise Refusal(f"{path[:200]!r} is not a path to mount at", 400)
    return posixpath.normpath(path)
