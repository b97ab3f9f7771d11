"""Tasks that belong to an object rather than to a block."""

import asyncio
from types import TracebackType
from typing import Self


class OwnsTasks:
    """An async context with a task group of its own: `_group`, for what its methods begin. At the end
    `_let_go` has the tasks end, and they are waited for."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()

    def _let_go(self) -> None:
        """Cancel the tasks, or whatever else makes them end."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._let_go()
        await (
            self._group.__aexit__(kind, error, trace)
            if isinstance(error, asyncio.CancelledError)
            else self._group.__aexit__(None, None, None)  # what the block raised goes on as it is
        )
