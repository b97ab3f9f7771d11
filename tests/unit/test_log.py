"""The log's format."""

import json
from collections.abc import Iterator

import pytest
import structlog

from contracts.log import configure


@pytest.fixture(autouse=True)
def format_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_traceback_shows_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    def opens(key: str) -> None:
        password = f"canary-{key}"
        raise ValueError(len(password))

    configure(json=True)
    try:
        opens("value")
    except ValueError:
        structlog.get_logger().exception("it.failed")

    line = json.loads(capsys.readouterr().err)
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert line["exception"][0]["frames"][-1]["name"] == "opens"
    assert "canary" not in json.dumps(line)
