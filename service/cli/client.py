"""The service over HTTP, for the commands that speak to it as anybody would."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from service.errors import OperatorError

PAGE = 500
TIMEOUT_SECONDS = 30
IMPORT_SECONDS = 300
Json = dict[str, Any]


# Control characters, and marks that turn the direction of text: what was recorded must not drive a terminal or forge a line.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(value: Any) -> Any:
    """JSON with every such character in its text written as an escape."""
    if isinstance(value, str):
        return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
    if isinstance(value, list):
        return [visible(element) for element in value]
    if isinstance(value, dict):
        return {visible(name): visible(member) for name, member in value.items()}
    return value


class Problem(OperatorError):
    """The service refused; the sentence is its own, and so is the code of the problem."""

    def __init__(self, status: int, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code


class Unreachable(OperatorError):
    """Nothing answers at the address."""


class Client:
    """A ledger of a service. Every call raises OperatorError, with the service's own words where it has some."""

    def __init__(self, url: str, key: str, ledger: str) -> None:
        self.url = url.rstrip("/")
        self.ledger = ledger
        self.base = f"/v1/ledgers/{quote(ledger, safe='')}"
        # A proxy of the environment does not know this machine's own addresses.
        local = _host(url) in ("localhost", "127.0.0.1", "::1")
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=not local)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make_ledger(self, time_zone: str) -> Json:
        """The ledger, made if there was none."""
        return self._answer("PUT", self.base, json={"time_zone": time_zone})

    def append(self, path: str, request: Json, key: str) -> Json:
        """The receipt of an append, whether it was recorded now or before under the same key."""
        return self._answer("POST", self.base + path, json=request, headers={"Idempotency-Key": key})

    def validate(self, path: str, request: Json) -> Json:
        """The receipt that an append would have."""
        return self._answer("POST", self.base + path, json=request, params={"validate_only": "true"})

    def contract(self, contract_id: str, **times: Any) -> Json:
        """A contract at the times that are given."""
        given = {name: value for name, value in times.items() if value is not None}
        return self._answer("GET", f"{self.base}/contracts/{quote(contract_id, safe='')}", params=given)

    def contract_ids(self, reference: str | None = None) -> Iterator[str]:
        """The ids of the ledger's contracts, or of those with a reference, `scheme:id`."""
        given = {} if reference is None else {"reference": reference}
        return (str(contract["contract_id"]) for contract in self._pages(f"{self.base}/contracts", **given))

    def ocds(self, contract_id: str, package: str) -> str:
        """A contract as an OCDS package, in the service's own JSON: read as floats, amounts would lose digits."""
        path = f"{self.base}/contracts/{quote(contract_id, safe='')}/ocds"
        _, text = self._exchange("GET", path, params={"as": package})
        return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

    def contract_events(self, contract_id: str) -> list[Json]:
        """Every event of a contract, by revision."""
        return list(self._pages(f"{self.base}/contracts/{quote(contract_id, safe='')}/events"))

    def checkpoint(self) -> str:
        """The newest checkpoint of the ledger, as a signed note."""
        return b"".join(self._streamed("/log/checkpoint", {})).decode()

    def checkpoint_keys(self) -> list[str]:
        """The verifier keys of its checkpoints."""
        return [str(key["verifier_key"]) for key in self._answer("GET", f"{self.base}/log/keys")["keys"]]

    def proof(self, event_id: str, size: int | None = None) -> Json:
        """The proof that an event is in the tree of a checkpoint of a size, or in the first that covers it."""
        params = {} if size is None else {"size": size}
        # As it stands: what a terminal is spared would be missing from the text that was signed.
        proof: Json = json.loads(self._exchange("GET", f"{self.base}/events/{quote(event_id, safe='')}/proof", params=params)[1])
        return proof

    def consistency(self, size1: int, size2: int) -> list[str]:
        """The proof that the tree of one checkpoint continues that of another, in base64."""
        told = self._answer("GET", f"{self.base}/log/consistency", params={"from": size1, "to": size2})
        return [str(one) for one in told["path"]]

    def feed(self, after: str | None, wait: int = 0) -> Json:
        """A page of the ledger's events after a cursor; where there is none yet, after at most so many seconds."""
        params: Json = {"limit": PAGE, "wait": wait} | ({} if after is None else {"after": after})
        return self._answer("GET", f"{self.base}/events", params=params)

    def send_lines(self, pieces: Iterable[bytes], import_id: str, from_line: int, *, stop_on_refusal: bool) -> Json:
        """What became of the lines of an import, which are sent as they come."""
        return self._answer(
            "POST",
            f"{self.base}/imports",
            content=pieces,
            params={"from_line": from_line} | ({"stop_on_refusal": "true"} if stop_on_refusal else {}),
            headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": import_id},
            timeout=IMPORT_SECONDS,
        )

    def lines_not_recorded(self, import_id: str) -> Iterator[Json]:
        """The lines of an import that were refused or held back."""
        return self._pages(f"{self.base}/imports/{quote(import_id, safe='')}/lines", fate="not_recorded")

    def export(self, contract_id: str | None, *, sealed: bool = False) -> Iterator[bytes]:
        """The events of the ledger or of a contract as lines, as they come. OperatorError where they break off."""
        known = {} if contract_id is None else {"contract_id": contract_id}
        return self._streamed("/export", known | ({"sealed": "true"} if sealed else {}))

    def bundle(self, wanted: Json) -> Iterator[bytes]:
        """A bundle of the ledger, as it comes. OperatorError where it breaks off."""
        return self._streamed("/bundle", wanted)

    def _streamed(self, path: str, params: Json) -> Iterator[bytes]:
        try:
            with self._http.stream("GET", self.base + path, params=params) as response:
                if response.is_error:
                    response.read()
                    self._told(response)
                yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _pages(self, path: str, **more: Any) -> Iterator[Json]:
        params: Json = {"limit": PAGE, **more}
        while True:
            page = self._answer("GET", path, params=params)
            yield from page["items"]
            if "next" not in page:
                return
            params["after"] = page["next"]

    def _answer(self, method: str, path: str, **request: Any) -> Json:
        return self._exchange(method, path, **request)[0]

    def _exchange(self, method: str, path: str, **request: Any) -> tuple[Json, str]:
        """The answer, read, and its text."""
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise OperatorError(f"{self.url!r} is no address of a service ({error}): write it as http://127.0.0.1:8000.") from error
        return self._told(response)

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        return Unreachable(
            f"Nothing answers at {self.url} ({str(error) or type(error).__name__}): start it with `contract-ledger serve`, "
            "or name another address with --url or LEDGER_URL."
        )

    def _told(self, response: httpx.Response) -> tuple[Json, str]:
        try:
            answer = visible(response.json())
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise OperatorError(f"What answers at {self.url} is not contract-ledger: name its address with --url or LEDGER_URL.")
        if response.is_error:
            raise Problem(response.status_code, _sentence(response.status_code, answer), str(answer.get("code", "")))
        return answer, response.text


def _host(url: str) -> str:
    """The host of an address. OperatorError for what is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OperatorError(f"{url!r} is no address of a service: write it as http://127.0.0.1:8000.")
    return parts.hostname


def _sentence(status: int, problem: Json) -> str:
    said = f"{problem.get('title', 'The service refused')}: {problem.get('detail', f'status {status}')}"
    if status == 401:
        return f"{said} The key comes from LEDGER_API_KEY, else from the data folder: name that of the service with --data-dir."
    return said
