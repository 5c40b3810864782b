"""The real service: uvicorn, as it is deployed, in a thread of the tests' process, over a database of its own."""

import asyncio
import base64
import gc
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import psycopg
import uvicorn
import uvloop
from fastapi import FastAPI

from service.access import RIGHTS, key_hash, new_key
from service.api.connection import Connection
from service.app import create_app
from service.settings import Settings
from tests.api.documented import check_answer
from tests.conftest import Database

START_SECONDS: Final = 30
MAX_BODY_BYTES: Final = 1_048_576
SIGNING_KEY: Final = base64.b64encode(bytes(range(32))).decode()


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that answers at `url`; `admin` is a key with every right in every ledger."""

    url: str
    port: int
    database: Database
    admin: str
    app: FastAPI

    def client(self, key: str | None, *, ledger: str | None = None, **options: Any) -> httpx.Client:
        """A client that holds every answer against the OpenAPI document; paths are below the ledger, if one is named."""
        return httpx.Client(
            base_url=self.url + (f"/v1/ledgers/{ledger}" if ledger else ""),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            event_hooks={"response": [check_answer]},
            timeout=30,
            trust_env=False,
            **options,
        )

    def make_ledger(self, name: str, time_zone: str = "UTC") -> str:
        """The ledger_id of a new ledger."""
        with self.client(self.admin) as client:
            answer = client.put(f"/v1/ledgers/{name}", json={"time_zone": time_zone})
        assert answer.status_code == 201, answer.text
        ledger_id: str = answer.json()["ledger_id"]
        return ledger_id

    def make_key(self, rights: Sequence[str], ledger_id: str | None = None, expires_at: datetime | None = None) -> str:
        """A key of a new principal with these rights, in one ledger or in all."""
        return make_key(self.database, rights, ledger_id, expires_at)


def exchange(service: RunningService, sent: bytes, seconds: float = 10) -> tuple[int, dict[str, str], bytes]:
    """The answer to bytes as they are sent: status, headers, body. The service hangs up after it."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def make_key(database: Database, rights: Sequence[str], ledger_id: str | None = None, expires_at: datetime | None = None) -> str:
    principal_id = str(uuid4())
    with psycopg.connect(database.service_url) as connection:
        connection.execute("INSERT INTO principals (principal_id, name) VALUES (%s, 'a test')", [principal_id])
        connection.execute("INSERT INTO grants VALUES (%s, %s, %s)", [principal_id, ledger_id, list(rights)])
    return make_key_of(database, principal_id, expires_at)


def make_key_of(database: Database, principal_id: str, expires_at: datetime | None = None) -> str:
    """Another key of a principal."""
    key = new_key()
    with psycopg.connect(database.service_url) as connection:
        connection.execute(
            "INSERT INTO api_keys (key_id, principal_id, key_hash, expires_at) VALUES (gen_random_uuid(), %s, %s, %s)",
            [principal_id, key_hash(key), expires_at],
        )
    return key


@contextmanager
def running(database: Database, folder: Path, send_bytes: int | None = None, **settings: Any) -> Iterator[RunningService]:
    """The service over a database, with its kept heads in a folder, while the block runs. `send_bytes` is what the system keeps at most of
    what a client has not taken."""
    signs = {"signing_key": SIGNING_KEY, "checkpoint_store": str(folder / "kept-checkpoints")}
    given: dict[str, Any] = {"max_body_bytes": MAX_BODY_BYTES, "pool_connections": 4, **signs, **settings}
    stated = Settings(database_url=database.service_url, data_dir=folder, **given)
    listening = socket.create_server(("127.0.0.1", 0))
    if send_bytes:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    port = listening.getsockname()[1]
    app = create_app(stated)
    config = uvicorn.Config(app, http=Connection, ws="none", lifespan="on", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=_serve, args=(server, listening), name=f"service-{secrets.token_hex(2)}")
    thresholds = gc.get_threshold()
    thread.start()
    try:
        _await_start(server, thread)
        yield RunningService(f"http://127.0.0.1:{port}", port, database, make_key(database, RIGHTS), app)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(sockets=[listening]))


def _await_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        assert thread.is_alive(), "the service ended while it started"
        assert time.monotonic() < deadline, f"the service has not started after {START_SECONDS} s"
        time.sleep(0.01)
