"""A witness, written from C2SP tlog-witness and tlog-cosignature alone, for tests: nothing of the service is imported here.

    python witness.py NAME SEED_HEX STATE_FILE ORIGIN=VERIFIER_KEY...

It prints the port it listens on. What it has cosigned is in the file, so that a witness started again remembers.
"""

import base64
import hashlib
import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


class Refusal(Exception):
    def __init__(self, status, said="", kind="text/plain"):
        super().__init__(said)
        self.status, self.said, self.kind = status, said, kind


def hashed(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def is_consistent(old, new, old_root, new_root, proof):
    """RFC 9162, section 2.1.4.2, as its steps are numbered there; `old` is neither 0 nor `new`."""
    path = list(proof)
    if not path:
        return False
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    from_old = from_new = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            from_old, from_new = hashed(node, from_old), hashed(node, from_new)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            from_new = hashed(from_new, node)
        first, last = first >> 1, last >> 1
    return from_old == old_root and from_new == new_root and last == 0


class Witness:
    def __init__(self, name, seed, state, logs):
        self.name, self.state, self.logs = name, Path(state), logs
        self.key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        self.id = hashlib.sha256(name.encode() + b"\n\x04" + self.key.public_key().public_bytes_raw()).digest()[:4]

    def add_checkpoint(self, body):
        head, _, note = body.partition("\n\n")
        old_line, *proof_lines = head.split("\n")
        known = re.fullmatch(r"old (0|[1-9][0-9]*)", old_line)
        text, blank, signatures = note.rpartition("\n\n")
        if not known or not blank or len(proof_lines) > 63:
            raise Refusal(400, "no request to add a checkpoint")
        text += "\n"
        origin, size, root, *_ = text.split("\n")
        self.check_signature(origin, text, signatures)
        proof = [base64.b64decode(line, validate=True) for line in proof_lines]
        self.check_consistency(origin, int(known[1]), int(size), base64.b64decode(root), proof)
        self.remember(origin, int(size), root)
        return self.cosignature(text)

    def check_signature(self, origin, text, signatures):
        if origin not in self.logs:
            raise Refusal(404, "unknown origin")
        name, key_id, encoded = self.logs[origin].split("+", 2)
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded)[1:])
        found = False
        for line in signatures.rstrip("\n").split("\n"):
            dash, signed_by, value = line.split(" ")
            raw = base64.b64decode(value)
            if (dash, signed_by, raw[:4].hex()) == ("—", name, key_id):
                try:
                    public.verify(raw[4:], text.encode())
                except InvalidSignature:
                    raise Refusal(403, "a signature does not hold") from None
                found = True
        if not found:
            raise Refusal(403, "not signed by the log")

    def check_consistency(self, origin, old, size, root, proof):
        if old > size:
            raise Refusal(400, "the old size is greater")
        seen, seen_root = self.seen().get(origin, [0, ""])
        if old != seen:
            raise Refusal(409, f"{seen}\n", "text/x.tlog.size")
        if size == 0 and root != hashlib.sha256(b"").digest():
            raise Refusal(422, "not the root of the empty tree")
        if old in (0, size):
            if proof or (old == size != 0 and base64.b64decode(seen_root) != root):
                raise Refusal(422, "another root, or a proof of nothing")
        elif not is_consistent(old, size, base64.b64decode(seen_root), root, proof):
            raise Refusal(422, "the proof does not hold")

    def seen(self):
        return json.loads(self.state.read_text()) if self.state.exists() else {}

    def remember(self, origin, size, root):
        draft = self.state.with_suffix(".draft")
        draft.write_text(json.dumps({**self.seen(), origin: [size, root]}))
        draft.replace(self.state)

    def cosignature(self, text):
        now = int(time.time())
        signature = self.key.sign(f"cosignature/v1\ntime {now}\n{text}".encode())
        line = base64.b64encode(self.id + now.to_bytes(8, "big") + signature).decode()
        stranger = base64.b64encode(b"\x00" * 76).decode()
        return f"— stranger.example {stranger}\n— {self.name} {line}\n"


class Handler(BaseHTTPRequestHandler):
    witness: Witness

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path != "/add-checkpoint":
            self.answer(404, "no such path", "text/plain")
            return
        try:
            self.answer(200, self.witness.add_checkpoint(body), "text/plain")
        except Refusal as refusal:
            self.answer(refusal.status, refusal.said, refusal.kind)

    def answer(self, status, said, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(said.encode())))
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    name, seed, state, *logs = sys.argv[1:]
    Handler.witness = Witness(name, seed, state, dict(log.split("=", 1) for log in logs))
    server = HTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
