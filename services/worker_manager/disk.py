"""Whether there is room on this node's disks for another worker."""

import asyncio
from pathlib import Path

from contracts.errors import JetcrewError
from services.kit.disk import shortage
from services.worker_manager.runtimes.engine import Engine


class Disk:
    """The disks where the engine and the state directory are. `reserve` is what has to be free on each: below
    1 a part of the disk, else bytes; 0: nothing."""

    def __init__(self, engine: Engine, state: Path, reserve: float) -> None:
        self._engine = engine
        self._state = state
        self._reserve = reserve
        self._engine_root: Path | None = None

    async def full(self) -> str | None:
        """The sentence that says which disk has too little room; None where there is enough. Never raises."""
        if not self._reserve:
            return None
        roots = [self._state]
        if (root := await self._root_of_engine()) is not None:
            roots.append(root)
        for path in roots:
            if (why := await asyncio.to_thread(shortage, path, self._reserve)) is not None:
                return why
        return None

    async def _root_of_engine(self) -> Path | None:
        """None where it does not answer, or keeps its data on another host."""
        if self._engine_root is None:
            try:
                told = await self._engine.call(lambda client: client.info().get("DockerRootDir"))
            except JetcrewError:
                return None
            self._engine_root = Path(told or "")
        return self._engine_root if self._engine_root.is_absolute() else None
