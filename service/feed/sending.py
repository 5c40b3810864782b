"""One delivery to a webhook: signed by Standard Webhooks (v1, HMAC-SHA256), sent to an address that may be reached, and answered in time.

https://github.com/standard-webhooks/standard-webhooks, "Signature scheme" and "Server side request forgery".
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

import httpx
from standardwebhooks.webhooks import Webhook as Signer

from service.errors import OperatorError

DELIVERY_SECONDS: Final = 15
"""For a whole delivery, from the look at the name to the answer's head."""
MAX_URL: Final = 2_000
MAX_PORT: Final = 65_535
# As DNS has names (RFC 1035, section 2.3.4), and with the underscores that some have.
_LABEL: Final = rb"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rb"(?!.{254})(%b\.)*%b\.?" % (_LABEL, _LABEL), re.IGNORECASE)
_BAD_PORT: Final = f"not a URL: a port is a number from 1 to {MAX_PORT}"
MOST_ADDRESSES: Final = 4
"""Of a name that leads to several, for a delivery that cannot be connected."""
LOOKUPS: Final = 16
"""Names that a process looks at, at a time."""
REST_BYTES: Final = 65_536
REST_SECONDS: Final = 1
"""How much of the rest of an answer is taken, and for how long, so that its connection can be used again."""
MAX_RETRY_AFTER_SECONDS: Final = 3_600
"""For how long an endpoint may ask by Retry-After that it be sent nothing."""
KEEP_ALIVE_SECONDS: Final = 4
"""Less than endpoints commonly keep a connection that nothing is sent over."""
_UNICAST: Final = ipaddress.ip_network("2000::/3")
_RETRY_AFTER_DIGITS: Final = 9
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a delivery: the status that was answered, or why there was none; and how long the endpoint asked to be left alone."""

    status_code: int | None
    failure: str | None
    milliseconds: int
    rest_seconds: float = 0

    @property
    def delivered(self) -> bool:
        return self.failure is None

    @property
    def result(self) -> str:
        """In a word, as it is counted."""
        return "delivered" if self.delivered else "unanswered" if self.status_code is None else "refused"


class NotAllowed(Exception):
    """The endpoint is at an address that deliveries may not go to."""


def read_networks(text: str) -> list[Network]:
    """Networks with commas between them, in CIDR notation. OperatorError names the one that is none."""
    found: list[Network] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part))
        except ValueError:
            raise OperatorError(f"LEDGER_WEBHOOK_NETWORKS: {part[:100]!r} is no network, such as 10.0.0.0/8 or ::1/128.") from None
    return found


def fault_of_url(url: str, networks: Sequence[Network]) -> str | None:
    """Why an address cannot be that of a webhook, as far as it tells by itself."""
    try:
        known = httpx.URL(url)
        host = known.host  # brought to Unicode only now, which may fail where the letters before it were in order
    except (httpx.InvalidURL, UnicodeError):
        return "not a URL"
    if known.scheme not in ("http", "https") or not host or known.userinfo or known.fragment:
        return "not an https URL, without a user and without a fragment"
    if not 1 <= _port_of(known) <= MAX_PORT:
        return _BAD_PORT
    try:
        _check(_as_address(host), known.scheme, networks)
    except ValueError:
        if not _NAME.fullmatch(known.raw_host):
            return "not a URL: what stands before its path is the name of no host"
        return None if known.scheme == "https" or networks else "https, since what is sent would be readable on its way"
    except NotAllowed as refused:
        return str(refused)
    return None


class Sender:
    """Sends to endpoints, each over connections of its own: an address is shared by strangers."""

    def __init__(self, networks: Sequence[Network]) -> None:
        """`networks` may be reached though they are private, and by http."""
        self.networks = networks
        # Threads of their own: the loop has two for all names, Postgres' among them, and names of strangers may hang.
        self._lookups = ThreadPoolExecutor(LOOKUPS, "webhook-names")
        self._context: ssl.SSLContext | None = None

    def client(self) -> httpx.AsyncClient:
        """The connections to one endpoint; whoever asks closes them. Nothing is followed or kept; no proxy of the environment is used."""
        self._context = self._context or httpx.create_ssl_context()
        limits = httpx.Limits(keepalive_expiry=KEEP_ALIVE_SECONDS)
        # An endpoint could have as many cookies kept as it likes, each sent back with all that follows.
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        return httpx.AsyncClient(
            verify=self._context, trust_env=False, follow_redirects=False, cookies=cookies, limits=limits, timeout=DELIVERY_SECONDS
        )

    async def send(self, client: httpx.AsyncClient, url: str, secrets: Sequence[str], message_id: str, body: bytes) -> Outcome:
        """Deliver a body once, signed with each of the secrets. Never fails: what went wrong is told."""
        began, response, failure = time.monotonic(), None, None
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                response = await self._post(client, url, _headers(secrets, message_id, body), body)
        except TimeoutError:
            failure = f"no answer within {DELIVERY_SECONDS} s"
        except NotAllowed as error:
            failure = str(error)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ssl.SSLError, UnicodeError) as error:
            failure = f"{type(error).__name__}: {str(error)[:200]}" if str(error) else type(error).__name__
        milliseconds = round((time.monotonic() - began) * 1_000)
        if response is None:
            return Outcome(None, failure, milliseconds)
        await _take_rest(response)
        return Outcome(response.status_code, failure or _fault_of(response.status_code), milliseconds, _rest_seconds(response))

    def close(self) -> None:
        """Look at no more names."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def _post(self, client: httpx.AsyncClient, url: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        """The head of the answer from the first address that can be connected, of those that were looked at: whatever the name leads to a
        moment later. The rest is still to be taken."""
        known = httpx.URL(url)
        *others, last = (await self._addresses(known))[:MOST_ADDRESSES]
        for address in others:
            with contextlib.suppress(httpx.ConnectError):
                return await _post_to(client, known, address, headers, body)
        return await _post_to(client, known, last, headers, body)

    async def _addresses(self, url: httpx.URL) -> list[Address]:
        """The addresses that a host's name leads to. NotAllowed unless deliveries may go to all of them."""
        name, port = url.raw_host.decode("ascii"), _port_of(url)
        if not 1 <= port <= MAX_PORT:  # kept before this was refused; what a system makes of it is another port or no error of a connection
            raise NotAllowed(_BAD_PORT)
        looked = asyncio.get_running_loop().run_in_executor(self._lookups, _look_at, name.strip("[]"), port)
        addresses = await looked
        for address in addresses:
            _check(address, url.scheme, self.networks)
        return addresses


async def _post_to(client: httpx.AsyncClient, url: httpx.URL, address: Address, headers: dict[str, str], body: bytes) -> httpx.Response:
    """Post to an address what is meant for a name, which the certificate there has to be for."""
    host = f"[{address}]" if address.version == 6 else str(address)
    # The name as it goes over the wire: in other letters it might be encoded by another standard, as that of someone else.
    extensions = {"sni_hostname": url.raw_host.decode("ascii").strip("[]")} if url.scheme == "https" else {}
    named = {"Host": url.netloc.decode("ascii")}
    request = client.build_request("POST", url.copy_with(host=host), content=body, headers=headers | named, extensions=extensions)
    return await client.send(request, stream=True)


def _fault_of(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    return f"answered {status}" + (": redirects are not followed" if 300 <= status < 400 else "")


def _rest_seconds(response: httpx.Response) -> float:
    """What an endpoint asked for by Retry-After (RFC 9110, 10.2.3: seconds or a date), within bounds; 0 where it said nothing of use."""
    said: str = response.headers.get("retry-after", "").strip()
    if not said or response.status_code not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return 0
    if said.isascii() and said.isdecimal():
        return MAX_RETRY_AFTER_SECONDS if len(said) > _RETRY_AFTER_DIGITS else min(int(said), MAX_RETRY_AFTER_SECONDS)
    try:
        until = parsedate_to_datetime(said)
        left = (until if until.tzinfo else until.replace(tzinfo=UTC)) - datetime.now(UTC)
    except (ValueError, OverflowError):
        return 0
    return min(max(0.0, left.total_seconds()), MAX_RETRY_AFTER_SECONDS)


async def _take_rest(response: httpx.Response) -> None:
    """Take the rest of an answer, if it is short and comes at once, and close it: otherwise its connection with it."""
    taken = 0
    try:
        async with asyncio.timeout(REST_SECONDS):
            async for piece in response.aiter_raw():
                taken += len(piece)
                if taken > REST_BYTES:
                    break
    except (TimeoutError, httpx.HTTPError):
        pass  # what was to be known is known
    finally:
        await response.aclose()


def _port_of(url: httpx.URL) -> int:
    return url.port if url.port is not None else 443 if url.scheme == "https" else 80


def _look_at(name: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _as_address(host: str) -> Address:
    return ipaddress.ip_address(host.strip("[]"))


def _check(address: Address, scheme: str, networks: Sequence[Network]) -> None:
    if any(address in network for network in networks):
        return
    if not _is_public(address):
        raise NotAllowed(f"{address} is not a public address, and not in LEDGER_WEBHOOK_NETWORKS")
    if scheme != "https":
        raise NotAllowed("to a public address is sent by https only")


def _is_public(address: Address) -> bool:
    """Whether anyone may be there: no private, shared, link-local, loopback or multicast address, nor one wrapped in another."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return _is_public(inner)
        if address not in _UNICAST:  # Python counts old and new private ranges outside it as global
            return False
    return address.is_global and not address.is_multicast


def _headers(secrets: Sequence[str], message_id: str, body: bytes) -> dict[str, str]:
    now = datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Signer(secret).sign(message_id, now, body.decode()) for secret in secrets),
        "content-type": "application/cloudevents+json",
        "user-agent": "contract-ledger",
    }
