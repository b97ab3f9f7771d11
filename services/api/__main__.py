"""The HTTP API as a process: settings, logs, bus, jobs."""

import asyncio
import socket
import sys

import structlog

from contracts import log as logs
from contracts.bus import connect
from contracts.errors import ConfigurationInvalid, JetcrewError
from contracts.topology import INBOX
from services.api.app import Api
from services.api.server import announced, bind, serve_http, url_of
from services.api.settings import ApiSettings
from services.kit.embedded import PortInUse
from services.kit.serve import serve, until_closed
from services.kit.settings import load

log = structlog.get_logger(__name__)

ROLE = "api"
BAD_SETTINGS, PORT_TAKEN, FAILED = 2, 3, 1
"""Exit codes."""


def main() -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    try:
        settings = load(ApiSettings)
        logs.configure(json=settings.log.json_lines, level=settings.log.level, process=ROLE)
        with bind(settings.api) as listener:
            asyncio.run(_run(settings, listener))
    except PortInUse as error:
        return _fail(PORT_TAKEN, error)
    except ConfigurationInvalid as error:
        return _fail(BAD_SETTINGS, error)
    except JetcrewError as error:
        return _fail(FAILED, error)
    except KeyboardInterrupt:
        return 130
    return 0


async def _run(settings: ApiSettings, listener: socket.socket) -> None:
    state = settings.state
    token = settings.api.token
    url = url_of(listener)
    async with connect(
        settings.url,
        name=ROLE,
        creds=settings.creds or state.creds(ROLE),
        inbox_prefix=f"{INBOX}.{ROLE}",
        topology=settings.topology,
    ) as bus:
        api = Api(bus, None if token is None else token.get_secret_value())

        async def http(stop: asyncio.Event) -> None:
            await serve_http(api.asgi, listener, stop)

        listener.listen()  # from now on clients can connect; who reads the file finds somebody there
        with announced(state, url):
            log.info("api.listening", url=url)
            await serve(
                {
                    "http": http,
                    "events": api.events.run,
                    "output": api.output.run,
                    "bus": until_closed(bus),
                }
            )


def _fail(code: int, error: JetcrewError) -> int:
    sys.stderr.write(f"jetcrew api: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
