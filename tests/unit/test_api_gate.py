"""Who gets in, and where the API may listen."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from contracts.errors import ConfigurationInvalid
from services.api.gate import Gate
from services.api.server import OpenWithoutToken, bind, url_of
from services.api.settings import ApiSettings, HttpSettings
from services.kit.settings import load

TOKEN = "correct horse battery".replace(" ", "-")


async def ask(gate: Gate, path: str = "/v1/workers", **headers: str) -> dict[str, Any]:
    """The gate's answer: status, headers, and the body where there is one."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope: Any = {"type": "http", "path": path, "headers": pairs}
    await gate(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return {
        "status": sent[0]["status"],
        "headers": dict(sent[0]["headers"]),
        "body": json.loads(body) if body else None,
    }


async def let_in(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xff",
    ],
)
async def test_without_the_token_nobody_gets_in(given: str) -> None:
    answer = await ask(Gate(let_in, TOKEN), authorization=given)

    assert answer["status"] == 401
    assert answer["headers"][b"www-authenticate"] == b"Bearer"
    assert answer["headers"][b"content-type"] == b"application/problem+json"
    assert answer["body"] == {
        "type": "urn:jetcrew:problem:unauthenticated",
        "title": "Unauthorized",
        "status": 401,
        "detail": "a token is needed: Authorization: Bearer …",
        "instance": "/v1/workers",
        "field": "Authorization",
    }


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_opens_whatever_the_case_of_its_scheme(scheme: str) -> None:
    assert (await ask(Gate(let_in, TOKEN), authorization=f"{scheme} {TOKEN}"))["status"] == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_need_no_token(path: str) -> None:
    assert (await ask(Gate(let_in, TOKEN), path))["status"] == 200


@pytest.mark.parametrize("path", ["/healthz/", "//healthz", "/readyz/x", "/HEALTHZ", "/", ""])
async def test_what_looks_like_a_probe_needs_a_token(path: str) -> None:
    assert (await ask(Gate(let_in, TOKEN), path))["status"] == 401


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8080", "localhost", "LocalHost:1", "[::1]", "[::1]:8080"]
)
async def test_without_a_token_loopback_names_are_served(host: str) -> None:
    assert (await ask(Gate(let_in, None), host=host))["status"] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "localhost:80@evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1:evil.example",
        "[::1].evil.example",
        "[::2]",
        "::1]",
        "10.0.0.1",
        "0.0.0.0",
        "",
    ],
)
async def test_without_a_token_a_name_that_only_resolves_to_here_is_refused(host: str) -> None:
    answer = await ask(Gate(let_in, None), host=host)

    assert (answer["status"], answer["body"]["field"]) == (421, "Host")


async def test_with_a_token_any_name_will_do() -> None:
    gate = Gate(let_in, TOKEN)

    assert (await ask(gate, host="crew.example", authorization=f"Bearer {TOKEN}"))["status"] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_loopback_a_token_is_demanded_before_anything_is_bound(host: str) -> None:
    with pytest.raises(OpenWithoutToken, match="set JETCREW_API__TOKEN, or listen"):
        bind(HttpSettings(host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_on_loopback_no_token_is_needed(host: str) -> None:
    with bind(HttpSettings(host=host)) as listener:
        assert url_of(listener).startswith("http://127.0.0.")


def test_with_a_token_every_address_may_be_bound_and_is_found_on_loopback() -> None:
    with bind(HttpSettings(host="0.0.0.0", token=SecretStr(TOKEN))) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_small_answers_are_not_held_back() -> None:
    """asyncio sets TCP_NODELAY only where the protocol is named; without it an answer takes 40 ms."""
    with bind(HttpSettings()) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_host_that_does_not_exist_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigurationInvalid, match="JETCREW_API__HOST"):
        bind(HttpSettings(host="no such host"))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("HOST", "PORT", "TOKEN"):
        monkeypatch.delenv(f"JETCREW_API__{name}", raising=False)
    return monkeypatch  # type: ignore[return-value]  # undone by its own fixture


def test_settings_come_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("JETCREW_API__PORT", "8080")
    environment.setenv("JETCREW_API__TOKEN", TOKEN)

    settings = load(ApiSettings)

    assert settings.api.port == 8080
    assert settings.api.token == SecretStr(TOKEN)
    assert TOKEN not in repr(settings)


def test_an_empty_token_is_none(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("JETCREW_API__TOKEN", "")

    assert load(ApiSettings).api.token is None


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "65536"), ("PORT", "eighty"), ("TOKEN", "short")]
)
def test_a_wrong_setting_is_named_in_one_line_without_its_value(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(f"JETCREW_API__{name}", value)

    with pytest.raises(ConfigurationInvalid, match=f"^JETCREW_API__{name}: ") as caught:
        load(ApiSettings)
    assert "\n" not in str(caught.value)
    assert value not in str(caught.value)
