"""The log's format."""

import json

import pytest
import structlog

from contracts.log import configure

AT_FIRST = structlog.get_config()


@pytest.mark.parametrize("time", ["once", "again"])
def test_a_format_lasts_for_one_test(time: str) -> None:
    assert structlog.get_config() == AT_FIRST, time
    configure(json=True, process="leaks")


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
