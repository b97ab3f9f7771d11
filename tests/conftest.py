"""What all tests share: a test's folder is its marker, and asyncio is the only event loop."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

LEVELS = {"unit", "service", "integration", "e2e"}
HERE = Path(__file__).parent

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the name of its folder."""
    for item in items:
        level = item.path.relative_to(HERE).parts[0]
        if level in LEVELS:
            item.add_marker(level)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The product runs on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def log_format_as_before() -> Iterator[None]:
    """A test that sets the log's format, or has code do so, leaves the next one what it found."""
    before, configured = structlog.get_config(), structlog.is_configured()
    bound = structlog.contextvars.get_contextvars()
    yield
    if configured:
        structlog.configure(**before)
    else:
        structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**bound)
