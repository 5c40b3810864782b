"""The service as it may answer one day: it stands before the real one, and adds to each answer what no client of today has heard of."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx

EVENT_TYPE: Final = "contract.teleported"
DATA: Final = {"to": "Mars"}
NEW: Final = {"colour": {"of": ["the", "future"]}}
# Names and revisions: not members that a schema names.
MAPS: Final = {"stated_in"}


def _add(found: Any) -> Any:
    """An answer with members that are new, wherever an object stands."""
    if isinstance(found, list):
        return [_add(element) for element in found]
    if not isinstance(found, dict):
        return found
    return {name: member if name in MAPS else _add(member) for name, member in found.items()} | NEW


def _changed(answer: Any) -> Any:
    """An answer with new members everywhere, whose first event is of a new type."""
    changed = _add(answer)
    if isinstance(changed, dict) and changed.get("items") and "event_type" in changed["items"][0]:
        changed["items"][0] |= {"event_type": EVENT_TYPE, "data": DATA}
    return changed


@contextmanager
def future_of(url: str) -> Iterator[str]:
    """Where the service at `url` answers as it may one day."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kept = {"Authorization": self.headers["Authorization"], "Accept": "application/json"}
            answer = httpx.get(url + self.path, headers=kept, trust_env=False, timeout=30)
            content = json.dumps(_changed(answer.json())).encode()
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            """Nothing: what a client asks is told by its own output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
