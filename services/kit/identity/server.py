"""What a nats-server is told: the text of its configuration."""

import json
from pathlib import Path

from contracts.topology import GIB, MAX_PAYLOAD_BYTES, MIB, Topology

SPARE_BYTES = 8 * GIB
"""Room for buckets and stored objects beside the streams, whose bounds are reserved when they are made."""


def server_config(
    *,
    listen: str,
    monitoring: str,
    directory: Path,
    topology: Topology,
    trust: str = "",
    embedded: bool = False,
) -> str:
    """The configuration of one server that keeps everything below `directory`.

    `listen` and `monitoring` are `HOST:PORT`; `trust` is what `trust_config` made, and without it the
    server lets anybody in. An embedded server writes its log and where it listens into files, too.
    """
    store_bytes = sum(stream.max_bytes for stream in topology.streams) + SPARE_BYTES
    lines = [
        "server_name: jetcrew",
        f"listen: {_quoted(listen)}",
        f"http: {_quoted(monitoring)}  # tells what goes on, without asking who wants to know",
        f"max_payload: {MAX_PAYLOAD_BYTES}",
        "logtime_utc: true",
        *(_files(directory) if embedded else ()),
        "jetstream {",
        f"  store_dir: {_quoted(directory / 'js')}",
        f"  max_file_store: {store_bytes}",
        f"  max_memory_store: {256 * MIB}",
        "  sync_interval: always  # an acknowledgement is kept even when the power fails",
        "}",
        "# The other form of acknowledgement subjects ends the read loop of Python clients.",
        "feature_flags { js_ack_fc_v2: false }",
    ]
    return "\n".join(lines) + "\n" + trust


def deployment_config(topology: Topology) -> str:
    """The configuration of a server in a container, as `deploy/nats/server.conf` ships it."""
    config = server_config(
        listen="0.0.0.0:4222",
        monitoring="127.0.0.1:8222",
        directory=Path("/data"),
        topology=topology,
        trust="include ./trust.conf\n",
    )
    return _DEPLOYMENT + config


_DEPLOYMENT = """\
# One NATS server for a crew, in a container that keeps its data in /data. Generated: `just docs`.
#
# trust.conf, beside this file, says whom the server believes; `jetcrew init` makes it together with the
# keys and credentials. Across hosts the connections must be encrypted; add, and use tls:// in clients:
#   tls { cert_file: "/etc/nats/server.pem", key_file: "/etc/nats/server.key" }
"""


def trust_config(
    *, operator: str, system_account: str, accounts: dict[str, str], directory: Path
) -> str:
    """The part of a configuration that says whom the server believes.

    `accounts` maps public keys to account JWTs; they are the server's first knowledge of the accounts.
    What is pushed to it later is kept below `directory` and outlives a restart.
    """
    preload = [f"  {key}: {jwt}" for key, jwt in accounts.items()]
    lines = [
        f"operator: {operator}",
        f"system_account: {system_account}",
        f"resolver {{ type: full, dir: {_quoted(directory / 'jwt')}, allow_delete: false }}",
        "resolver_preload {",
        *preload,
        "}",
    ]
    return "\n".join(lines) + "\n"


def _files(directory: Path) -> list[str]:
    return [
        f"ports_file_dir: {_quoted(directory / 'run')}",
        f"log_file: {_quoted(directory / 'nats.log')}",
        "logfile_size_limit: 16MB",
        "logfile_max_num: 3",
    ]


def _quoted(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)
