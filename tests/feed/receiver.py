"""A receiver of webhooks, as a process of its own: it checks each signature by the code that docs/webhooks.md shows, writes what it got
into a file, and answers as it is told by another file, which it reads for each request. By TLS if it is given a certificate, with its key.
"""

import json
import re
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks.webhooks import WebhookVerificationError

WRITING = threading.Lock()
PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"


def shown_on_the_page() -> Any:
    """`received`, as the page shows it to those who receive webhooks."""
    found = re.search("```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(found[1], names)
    return names["received"]


received = shown_on_the_page()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        folder = Path(sys.argv[1])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        told = json.loads((folder / "told.json").read_text())
        event = json.loads(body)
        status, sleep = told["default"]
        status, sleep = told.get("contracts", {}).get(event.get("subject", ""), (status, sleep))
        line = {"event": event, "id": self.headers["webhook-id"], "signed": self._signed(told["secrets"], body), "status": status}
        line |= {"port": self.client_address[1], "cookie": self.headers["Cookie"]}
        with WRITING, (folder / "got.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(sleep)
        self._begin(status, told)
        if told.get("trickle"):
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"x")
            self.rfile.read(1)  # until the other end hangs up
            return
        if told.get("flood"):
            self.send_header("Content-Length", str(1 << 30))
            self.end_headers()
            try:
                for _ in range(1 << 10):
                    self.wfile.write(bytes(1 << 20))
            except OSError:
                (folder / "cut").touch()
            return
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _begin(self, status: int, told: dict[str, Any]) -> None:
        self.send_response(status)
        if told.get("retry_after") and status != 200:
            self.send_header("Retry-After", told["retry_after"])
        if told.get("cookies"):
            self.send_header("Set-Cookie", f"{self.headers['webhook-id']}={'x' * 4_000}; Max-Age=86400")
        if status in (301, 307):
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")

    def _signed(self, secrets: list[str], body: bytes) -> list[bool]:
        found = []
        for secret in secrets:
            try:
                found.append(received(secret, dict(self.headers), body) == json.loads(body))
            except WebhookVerificationError:
                found.append(False)
        return found

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
    server.daemon_threads = True
    if len(sys.argv) > 3:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[3])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    (Path(sys.argv[1]) / "port").write_text(str(server.server_address[1]))
    server.serve_forever()
