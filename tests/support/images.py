"""Worker images for tests: one per agent and set of capabilities, shared by all tests of a session.

They are built by the product itself; what the engine has under its tag is not built again.
"""

import asyncio

from services.kit.catalog import Catalog
from services.worker_manager.images.build import Images
from services.worker_manager.runtimes.engine import Engine
from tests.support.engine import need_engine

_built: dict[tuple[str, tuple[str, ...]], str] = {}


async def worker_image(agent: str, *capabilities: str) -> str:
    """Tag of a real worker image, built at its first use. Takes a minute or more where nothing is cached."""
    need_engine()
    key = (agent, tuple(sorted(capabilities)))
    if key not in _built:
        async with (
            asyncio.timeout(900),
            Engine() as engine,
            Images(engine, Catalog.load()) as images,
        ):
            _built[key] = await images.ensure(agent, capabilities)
    return _built[key]
