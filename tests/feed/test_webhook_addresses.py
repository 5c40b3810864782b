"""Where deliveries go: to an address that was looked at, by TLS that is for the name, and nowhere else."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.feed import sending
from service.feed.sending import Outcome, Sender, fault_of_url, read_networks
from tests.feed.test_webhooks import Receiver

SECRET = "whsec_" + "A" * 43 + "="
BODY = b'{"subject": "a contract"}'


def certificate(folder: Path, name: str) -> Path:
    """A certificate for a name, with its key, that is its own issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(issued, issued, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path = folder / f"{name}.pem"
    path.write_bytes(made.public_bytes(encoding) + key.private_bytes(encoding, form, serialization.NoEncryption()))
    return path


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver by TLS whose certificate is for erp.example, and is trusted."""
    made = Receiver(tmp_path, secrets=[SECRET], certificate=certificate(tmp_path, "erp.example"))
    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
    made.answer()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What names lead to, at each look; the last answer stands."""
    told: dict[str, list[list[str]]] = {}

    def answer(name: str, port: int, **_: Any) -> list[Any]:
        if name not in told:
            raise socket.gaierror(socket.EAI_NONAME, f"{name} leads nowhere")
        answers = told[name]
        return [(None, None, 6, "", (address, port)) for address in (answers.pop(0) if len(answers) > 1 else answers[0])]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return told


async def sent(url: str, networks: str = "127.0.0.0/8", times: int = 1) -> list[Outcome]:
    """What came of deliveries, one after the other."""
    sender = Sender(read_networks(networks))
    try:
        async with sender.client() as client:
            return [await sender.send(client, url, [SECRET], f"message-{number}", BODY) for number in range(times)]
    finally:
        sender.close()


async def test_a_certificate_has_to_be_for_the_name_though_the_connection_is_to_an_address(
    secure: Receiver, names: dict[str, list[list[str]]]
) -> None:
    names |= {"erp.example": [["127.0.0.1"]], "other.example": [["127.0.0.1"]]}
    (well,) = await sent(f"https://erp.example:{secure.port}/events")
    assert (well.status_code, well.failure) == (200, None)
    assert secure.got()[0]["signed"] == [True]
    (refused,) = await sent(f"https://other.example:{secure.port}/events")
    assert refused.status_code is None
    assert "certificate" in str(refused.failure)
    assert len(secure.got()) == 1


async def test_one_connection_serves_many_deliveries(secure: Receiver, names: dict[str, list[list[str]]]) -> None:
    names["erp.example"] = [["127.0.0.1"]]
    outcomes = await sent(f"https://erp.example:{secure.port}/events", times=5)
    assert [outcome.failure for outcome in outcomes] == [None] * 5
    assert len({line["port"] for line in secure.got()}) == 1


async def test_a_name_that_leads_elsewhere_a_moment_later_is_not_followed_there(
    secure: Receiver, names: dict[str, list[list[str]]]
) -> None:
    names["erp.example"] = [["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1", "169.254.169.254"]]
    first, second, third = await sent(f"https://erp.example:{secure.port}/events", times=3)
    assert first.delivered
    assert second.failure == "10.0.0.1 is not a public address, and not in LEDGER_WEBHOOK_NETWORKS"
    assert third.failure == "169.254.169.254 is not a public address, and not in LEDGER_WEBHOOK_NETWORKS"
    assert len(secure.got()) == 1


async def test_of_several_addresses_the_first_that_can_be_connected_is_taken(secure: Receiver, names: dict[str, list[list[str]]]) -> None:
    # Nothing listens at the others, which are of loopback too.
    names["erp.example"] = [["127.0.0.2", "127.0.0.3", "127.0.0.1"]]
    (outcome,) = await sent(f"https://erp.example:{secure.port}/events")
    assert outcome.delivered
    names["erp.example"] = [["127.0.0.2"]]
    (outcome,) = await sent(f"https://erp.example:{secure.port}/events")
    assert str(outcome.failure).startswith("ConnectError")


async def test_a_name_is_looked_at_as_it_goes_over_the_wire(names: dict[str, list[list[str]]]) -> None:
    # The older standard makes fass.de of it, which is somebody else's.
    names |= {"xn--fa-hia.de": [["10.0.0.1"]], "fass.de": [["127.0.0.1"]]}
    (outcome,) = await sent("https://faß.de/")
    assert "10.0.0.1" in str(outcome.failure)


async def test_a_name_that_leads_nowhere_or_is_no_name_is_a_failed_delivery(names: dict[str, list[list[str]]]) -> None:
    names["erp.example"] = [["127.0.0.1"]]
    for url in ("https://nowhere.example/", f"https://{'x' * 64}.example/", "https://xn--a.example/", "https://erp.example:65536/"):
        (outcome,) = await sent(url)
        assert not outcome.delivered


async def test_what_an_endpoint_would_have_kept_is_not_kept_and_not_sent_back(secure: Receiver, names: dict[str, list[list[str]]]) -> None:
    names["erp.example"] = [["127.0.0.1"]]
    secure.answer(cookies=True)
    outcomes = await sent(f"https://erp.example:{secure.port}/events", times=3)
    assert [outcome.failure for outcome in outcomes] == [None] * 3
    assert [line["cookie"] for line in secure.got()] == [None] * 3


async def test_an_answer_that_trickles_counts_as_it_began_and_is_cut_off(
    secure: Receiver, names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "REST_SECONDS", 0.2)
    names["erp.example"] = [["127.0.0.1"]]
    secure.answer(200, trickle=True)
    outcomes = await sent(f"https://erp.example:{secure.port}/events", times=2)
    assert [outcome.delivered for outcome in outcomes] == [True, True]
    assert len({line["port"] for line in secure.got()}) == 2


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "240.0.0.1",
            "198.18.0.1",
        ),
        *("::", "::1", "::7f00:1", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1"),
        *("64:ff9b:1::a00:1", "2001:0:53aa:64c:0:0:80ff:fffe", "100::1", "2001:db8::1", "5f00::1"),
    ],
)
async def test_an_address_that_is_not_public_is_refused_as_written_and_as_looked_at(
    address: str, names: dict[str, list[list[str]]]
) -> None:
    names["erp.example"] = [[address]]
    (outcome,) = await sent("https://erp.example/", networks="")
    assert "is not a public address" in str(outcome.failure)
    host = f"[{address}]" if ip_address(address).version == 6 else address
    assert "is not a public address" in str(fault_of_url(f"https://{host}/", ()))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_a_public_address_is_allowed(address: str) -> None:
    host = f"[{address}]" if ip_address(address).version == 6 else address
    assert fault_of_url(f"https://{host}/", ()) is None


@pytest.mark.parametrize(
    "host", ["exa mple.com", "ex%41mple.com", "a..example", "-a.example", "a-.example", ".", "a!b.example", "a" * 64 + ".example"]
)
def test_what_no_host_is_called_is_no_address(host: str) -> None:
    assert "name of no host" in str(fault_of_url(f"https://{host}/", ()))


@pytest.mark.parametrize("host", ["erp.example", "erp.example.", "a_b.example", "xn--fa-hia.de", "faß.de", "A1.EXAMPLE", "b-2.1x.example"])
def test_names_of_hosts_are_allowed(host: str) -> None:
    assert fault_of_url(f"https://{host}/", ()) is None


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1"])
async def test_other_spellings_of_an_address_are_looked_at_as_names_are(host: str) -> None:
    (outcome,) = await sent(f"https://{host}/", networks="")
    assert not outcome.delivered
    assert "is not a public address" in str(outcome.failure)
