"""Bad input: each fault is refused, with a pointer to it, and nothing is recorded."""

import json
import re
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from service.api.operations import OPERATIONS
from tests.api.bodies import FILING, SIGNED, changed, delivery, event, figure, head_of, note, open_contract, path_of, with_key
from tests.api.running import RunningService

NULL, NUL, LONE = "null", r'"\u0000"', r'"\ud800"'
NOTE_AROUND = '{"effective_on":"2024-03-01","source":{"kind":"filing"},"data":{"text":%s}}'


@pytest.fixture(scope="module")
def contract_id(api: httpx.Client) -> str:
    """A contract that nothing here may change."""
    return open_contract(api)


def send(api: httpx.Client, path: str, content: bytes) -> httpx.Response:
    return api.post(path, content=content, headers=with_key() | {"Content-Type": "application/json"})


def pointers(answer: httpx.Response) -> list[str]:
    return [fault["pointer"] for fault in answer.json().get("errors", [])]


# Bodies that are no JSON, or not such as is read here


BODIES: list[tuple[str, bytes, int, str]] = [
    ("empty", b"", 400, ""),
    ("blank", b" \n", 400, ""),
    ("no JSON", b"effective_on=2024", 400, ""),
    ("broken off", b'{"effective_on":"2024-03-01","source":{"kind":', 400, "/source/kind"),
    ("two values", b"{}{}", 400, ""),
    ("a trailing comma", b'{"effective_on":"2024-03-01",}', 400, ""),
    ("single quotes", b"{'a':1}", 400, ""),
    ("a comment", b"{/* */}", 400, ""),
    ("a byte order mark", b"\xef\xbb\xbf{}", 400, ""),
    ("UTF-16", json.dumps(note()).encode("utf-16"), 400, ""),
    ("latin-1", NOTE_AROUND.encode() % '"caf\xe9"'.encode("latin-1"), 400, "/data/text"),
    ("an overlong encoding", NOTE_AROUND.encode() % b'"\xc0\xaf"', 400, "/data/text"),
    ("a surrogate as UTF-8", NOTE_AROUND.encode() % b'"\xed\xa0\x80"', 400, "/data/text"),
    ("NaN", NOTE_AROUND.encode() % b"NaN", 400, "/data/text"),
    ("Infinity", NOTE_AROUND.encode() % b"Infinity", 400, "/data/text"),
    ("-Infinity", NOTE_AROUND.encode() % b"-Infinity", 400, "/data/text"),
    ("a bare control character", NOTE_AROUND.encode() % b'"\x01"', 400, "/data/text"),
    ("an array", b"[]", 422, ""),
    ("a string", b'"note"', 422, ""),
    ("a number", b"1", 422, ""),
    ("null", b"null", 422, ""),
    ("true", b"true", 422, ""),
    ("a member null", NOTE_AROUND.encode() % NULL.encode(), 422, "/data/text"),
    ("an optional member null", json.dumps(note() | {"evidence": None}).encode(), 422, "/evidence"),
    ("U+0000", NOTE_AROUND.encode() % NUL.encode(), 422, "/data/text"),
    ("half a surrogate pair", NOTE_AROUND.encode() % LONE.encode(), 422, "/data/text"),
    ("a member twice", NOTE_AROUND.encode() % b'"a","text":"a"', 422, "/data/text"),
    ("a member twice, once escaped", NOTE_AROUND.encode() % rb'"a","te\u0078t":"a"', 422, "/data/text"),
    ("an envelope member twice", b'{"source":{"kind":"news"},"source":{"kind":"news"}}', 422, "/source"),
    ("10^400", NOTE_AROUND.encode() % b"1e400", 422, "/data/text"),
    ("10^-400", NOTE_AROUND.encode() % b"1e-400", 422, "/data/text"),
    ("an integer of 5,000 digits", NOTE_AROUND.encode() % (b"9" * 5_000), 422, "/data/text"),
    ("an integer beyond 2^53", NOTE_AROUND.encode() % b"9007199254740993", 422, "/data/text"),
    ("33 levels", NOTE_AROUND.encode() % (b"[" * 31 + b"]" * 31), 422, "/data/text" + "/0" * 30),
    ("100,000 levels", b"[" * 100_000, 422, ""),
    ("100,000 levels within", NOTE_AROUND.encode() % (b"[" * 100_000), 422, "/data/text" + "/0" * 30),
]


@pytest.mark.parametrize(("content", "status", "pointer"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_a_body_that_is_no_strict_json_object_is_refused_where_it_goes_wrong(
    api: httpx.Client, contract_id: str, content: bytes, status: int, pointer: str
) -> None:
    head = head_of(api)
    for path in (f"/contracts/{contract_id}/note-added", f"/contracts/{contract_id}/events", "/contracts"):
        answer = send(api, path, content)
        assert answer.status_code == status, answer.text
        assert answer.json()["code"] == ("malformed" if status == 400 else "refused")
        assert pointers(answer)[0].startswith(pointer)
    assert head_of(api) == head


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"NaN", 400), (b"[]", 422), (b'{"time_zone":"UTC","time_zone":"UTC"}', 422), (b'{"time_zone":null}', 422)],
)
def test_a_body_for_a_ledger_is_read_as_strictly(service: RunningService, content: bytes, status: int) -> None:
    with service.client(service.admin) as client:
        answer = client.put("/v1/ledgers/strict", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status
        assert client.get("/v1/ledgers/strict/contracts").status_code == 404


# Members


def stated(**more: Any) -> dict[str, Any]:
    return event({"figure": figure("f") | more})


def ranged(low: Any, high: Any) -> dict[str, Any]:
    body = event({"figure": figure("f") | {"low": low, "high": high}})
    del body["data"]["figure"]["amount"]
    return body


EVIDENCE = {"name": "a.pdf", "media_type": "application/pdf", "sha256": "0" * 64}
FAULTS: list[tuple[str, Any, str]] = [
    # The envelope
    ("note.added", {}, "/effective_on"),
    ("note.added", note() | {"unknown": 1}, "/unknown"),
    ("note.added", note() | {"event_type": "note.added"}, "/event_type"),
    ("note.added", note() | {"a/b~c": 1}, "/a~1b~0c"),
    ("note.added", note() | {"": 1}, "/"),
    ("note.added", note() | {"effective_on": 2024}, "/effective_on"),
    ("note.added", note() | {"effective_on": ["2024"]}, "/effective_on"),
    ("note.added", note() | {"source": "filing"}, "/source"),
    ("note.added", note() | {"source": []}, "/source"),
    ("note.added", note() | {"source": {}}, "/source/kind"),
    ("note.added", note() | {"source": {"kind": "rumour"}}, "/source/kind"),
    ("note.added", note() | {"source": FILING | {"url": "javascript:alert(1)"}}, "/source/url"),
    ("note.added", note() | {"source": FILING | {"name": ""}}, "/source/name"),
    ("note.added", note() | {"source": FILING | {"name": "n" * 301}}, "/source/name"),
    ("note.added", note() | {"source": FILING | {"author": "x"}}, "/source/author"),
    ("note.added", note() | {"source": FILING | {"published_on": "soon"}}, "/source/published_on"),
    ("note.added", note() | {"data": []}, "/data"),
    ("note.added", note() | {"data": "text"}, "/data"),
    ("note.added", note() | {"evidence": []}, "/evidence"),
    ("note.added", note() | {"evidence": [EVIDENCE | {"sha256": "A" * 64}]}, "/evidence/0/sha256"),
    ("note.added", note() | {"evidence": [EVIDENCE] * 21}, "/evidence"),
    ("note.added", note() | {"correlation_id": "1"}, "/correlation_id"),
    ("note.added", note() | {"correlation_id": "01890000-0000-7000-8000-00000000000A"}, "/correlation_id"),
    ("note.added", note() | {"hypothetical": False}, "/hypothetical"),
    ("note.added", note() | {"hypothetical": 1}, "/hypothetical"),
    ("note.added", note() | {"hypothetical": "true"}, "/hypothetical"),
    # Texts
    ("note.added", event({}), "/data/text"),
    ("note.added", event({"text": ""}), "/data/text"),
    ("note.added", event({"text": 1}), "/data/text"),
    ("note.added", event({"text": "x" * 5_001}), "/data/text"),
    ("note.added", event({"text": " \n\t"}), "/data/text"),
    ("note.added", event({"text": "\u3000\u00a0"}), "/data/text"),
    ("note.added", note() | {"source": FILING | {"name": " "}}, "/source/name"),
    ("contract.reported", event({"stage": "reported", "title": "  "}), "/data/title"),
    ("party.added", event({"party": {"party_id": " ", "name": "A", "roles": ["buyer"]}}), "/data/party/party_id"),
    ("party.added", event({"party": {"party_id": "a", "name": " ", "roles": ["buyer"]}}), "/data/party/name"),
    ("note.added", event({"text": "x", "about": {}}), "/data/about/kind"),
    ("note.added", event({"text": "x", "about": {"kind": "figure", "id": "a", "item_id": "b"}}), "/data/about/item_id"),
    ("note.added", event({"text": "x", "about": {"kind": "contract", "id": "a"}}), "/data/about/kind"),
    ("note.added", event({"text": "x", "about": {"kind": "event", "id": "a"}}), "/data/about/id"),
    ("note.added", event({"text": "x", "about": {"kind": "anomaly", "id": "a"}}), "/data/about/id"),
    ("note.added", event({"text": "x", "about": {"kind": "option", "id": "a b"}}), "/data/about/id"),
    # Amounts
    ("figure.stated", stated(amount=1_000_000), "/data/figure/amount"),
    ("figure.stated", stated(amount=1.5), "/data/figure/amount"),
    ("figure.stated", stated(amount=True), "/data/figure/amount"),
    ("figure.stated", stated(amount={"amount": "1"}), "/data/figure/amount"),
    ("figure.stated", stated(amount=""), "/data/figure/amount"),
    ("figure.stated", stated(amount="-1"), "/data/figure/amount"),
    ("figure.stated", stated(amount="+1"), "/data/figure/amount"),
    ("figure.stated", stated(amount="1e12"), "/data/figure/amount"),
    ("figure.stated", stated(amount="01"), "/data/figure/amount"),
    ("figure.stated", stated(amount="1."), "/data/figure/amount"),
    ("figure.stated", stated(amount=".5"), "/data/figure/amount"),
    ("figure.stated", stated(amount="1,000"), "/data/figure/amount"),
    ("figure.stated", stated(amount=" 1"), "/data/figure/amount"),
    ("figure.stated", stated(amount="1\n"), "/data/figure/amount"),
    ("figure.stated", stated(amount="１"), "/data/figure/amount"),
    ("figure.stated", stated(amount="NaN"), "/data/figure/amount"),
    ("figure.stated", stated(amount="Infinity"), "/data/figure/amount"),
    ("figure.stated", stated(amount="9" * 29), "/data/figure/amount"),
    ("figure.stated", stated(amount="9" * 5_000), "/data/figure/amount"),
    ("figure.stated", stated(amount="1.5"), "/data/figure/amount"),
    ("figure.stated", stated(amount="1.0"), "/data/figure/amount"),
    ("figure.stated", stated(amount="1.555", currency="USD"), "/data/figure/amount"),
    ("figure.stated", ranged("2", "1"), "/data/figure/low"),
    ("figure.stated", ranged("1.5", "2"), "/data/figure/low"),
    ("figure.stated", ranged(1, "2"), "/data/figure/low"),
    ("figure.stated", stated(low="1", high="2"), "/data/figure"),
    ("figure.stated", event({"figure": {name: value for name, value in figure("f").items() if name != "amount"}}), "/data/figure"),
    (
        "figure.stated",
        event({"figure": {name: value for name, value in ranged("1", "2")["data"]["figure"].items() if name != "high"}}),
        "/data/figure",
    ),
    ("figure.stated", stated(derived_from={"figure_id": "f"}), "/data/figure/derived_from"),
    ("figure.stated", stated(fx={"rate": 1310.95, "base": "USD", "quote": "KRW"}), "/data/figure/fx/rate"),
    ("figure.stated", stated(fx={"rate": "0", "base": "USD", "quote": "KRW"}), "/data/figure/fx/rate"),
    ("figure.stated", stated(fx={"rate": "0.000", "base": "USD", "quote": "KRW"}), "/data/figure/fx/rate"),
    ("figure.stated", stated(fx={"rate": "-1", "base": "USD", "quote": "KRW"}), "/data/figure/fx/rate"),
    ("figure.stated", stated(fx={"rate": "1", "base": "USD", "quote": "USD"}), "/data/figure/fx/quote"),
    ("order.extended", event({"via": "amendment", "added_value": {"amount": "0.1", "currency": "JPY"}}), "/data/added_value/amount"),
    ("delivery.recorded", changed(delivery("d"), "/data/quantity", 1_000), "/data/quantity"),
    ("delivery.recorded", changed(delivery("d"), "/data/unit", "boxes"), "/data/unit"),
    ("delivery.recorded", changed(delivery("d"), "/data/unit", "kwh"), "/data/unit"),
    ("delivery.recorded", changed(delivery("d"), "/data/unit", "X-CELL"), "/data/unit"),
    ("delivery.recorded", changed(delivery("d"), "/data/unit", "x-"), "/data/unit"),
    ("delivery.recorded", changed(delivery("d"), "/data/quantity", "-1"), "/data/quantity"),
    # Currencies
    ("figure.stated", stated(currency="ZZZ"), "/data/figure/currency"),
    ("figure.stated", stated(currency="krw"), "/data/figure/currency"),
    ("figure.stated", stated(currency="KRW "), "/data/figure/currency"),
    ("figure.stated", stated(currency="WON"), "/data/figure/currency"),
    ("figure.stated", stated(currency="XXX"), "/data/figure/currency"),
    ("figure.stated", stated(currency=410), "/data/figure/currency"),
    # Words of a closed set, ids
    ("figure.stated", stated(basis="rumoured"), "/data/figure/basis"),
    ("figure.stated", stated(bound="roughly"), "/data/figure/bound"),
    ("figure.stated", stated(figure_id=""), "/data/figure/figure_id"),
    ("figure.stated", stated(figure_id="a b"), "/data/figure/figure_id"),
    ("figure.stated", stated(figure_id="f" * 101), "/data/figure/figure_id"),
    ("figure.stated", stated(figure_id=1), "/data/figure/figure_id"),
    ("figure.stated", stated(surprise=1), "/data/figure/surprise"),
    ("order.extended", event({"via": "whim"}), "/data/via"),
    ("delivery.started", event({"partial": "true"}), "/data/partial"),
    ("delivery.started", event({"partial": 1}), "/data/partial"),
    # Days
    ("note.added", event({"text": "x"}, "2023-02-29"), "/effective_on"),
    ("note.added", event({"text": "x"}, "2023-02-30"), "/effective_on"),
    ("note.added", event({"text": "x"}, "2023-13"), "/effective_on"),
    ("note.added", event({"text": "x"}, "2023-00"), "/effective_on"),
    ("note.added", event({"text": "x"}, "2023-Q5"), "/effective_on"),
    ("note.added", event({"text": "x"}, "2023-6"), "/effective_on"),
    ("note.added", event({"text": "x"}, "2023-06-15T00:00:00Z"), "/effective_on"),
    ("note.added", event({"text": "x"}, "0999"), "/effective_on"),
    ("note.added", event({"text": "x"}, "3000"), "/effective_on"),
    ("note.added", event({"text": "x"}, "٢٠٢٣"), "/effective_on"),
    ("note.added", event({"text": "x"}, ""), "/effective_on"),
    ("note.added", event({"text": "x"}, "2023\n"), "/effective_on"),
    ("contract.signed", event({"signed_on": "2024-02-30"}), "/data/signed_on"),
    ("contract.signed", event({"signed_on": "2024-01-27", "signed_by": "2024-01-26"}), "/data/signed_on"),
    ("contract.signed", event({"signed_on": "2024-02", "signed_by": "2024-01"}), "/data/signed_on"),
    ("contract.signed", event({"period": {"start_on": "2024", "end_on": "2023"}}), "/data/period/end_on"),
    ("contract.signed", event({"period": {"end_on": "2027", "max_end_on": "2026"}}), "/data/period/max_end_on"),
    ("contract.signed", event({"period": {"start_on": "2024", "duration": "P999Y"}}), "/data/period/duration"),
    ("contract.signed", event({"period": {"start_on": "2024", "duration": "P0D"}}), "/data/period/duration"),
    ("contract.signed", event({"period": {"duration": "4 years"}}), "/data/period/duration"),
    # Lists
    ("contract.signed", changed(SIGNED, "/data/parties", []), "/data/parties"),
    ("contract.signed", changed(SIGNED, "/data/parties/1/party_id", "lges"), "/data/parties/1/party_id"),
    ("contract.signed", changed(SIGNED, "/data/parties/0/roles", []), "/data/parties/0/roles"),
    ("contract.signed", changed(SIGNED, "/data/parties/0/roles", "supplier"), "/data/parties/0/roles"),
    ("contract.signed", changed(SIGNED, "/data/items/0/quantity", "5"), "/data/items/0/unit"),
    ("contract.signed", changed(SIGNED, "/data/references", [{"scheme": "PO", "id": "1 "}]), "/data/references/0/id"),
    ("contract.signed", changed(SIGNED, "/data/references", [{"scheme": "\u3000PO", "id": "1"}]), "/data/references/0/scheme"),
    ("contract.signed", changed(SIGNED, "/data/references", [{"scheme": "PO", "id": "E\u0301-1"}]), "/data/references/0/id"),
    ("contract.signed", changed(SIGNED, "/data/references", [{"scheme": "\u1100\u1161", "id": "1"}]), "/data/references/0/scheme"),
    ("contract.signed", changed(SIGNED, "/data/references", [{"scheme": "PO", "id": "1\u200b2"}]), "/data/references/0/id"),
    ("contract.signed", changed(SIGNED, "/data/references", [{"scheme": "PO", "id": "1\n2"}]), "/data/references/0/id"),
    ("contract.signed", changed(SIGNED, "/data/items", [SIGNED["data"]["items"][0]] * 501), "/data/items"),
    ("contract.signed", changed(SIGNED, "/data/withheld", [{"path": "value", "reason": "x"}]), "/data/withheld/0/path"),
    ("contract.signed", changed(SIGNED, "/data/withheld", [{"path": "/nothing", "reason": "x"}]), "/data/withheld/0/path"),
    ("contract.signed", changed(SIGNED, "/data/withheld", [{"path": "/", "reason": "x"}]), "/data/withheld/0/path"),
    ("contract.signed", changed(SIGNED, "/data/withheld", [{"path": "/Value", "reason": "x"}]), "/data/withheld/0/path"),
    ("contract.signed", changed(SIGNED, "/data/withheld", [{"path": "/terms/price", "reason": "x"}]), "/data/withheld/0/path"),
    ("disclosure.filed", event({"contains": ["/title", "/anomalies"]}), "/data/contains/1"),
    ("disclosure.filed", event({"contains": ["/title", "/value", "/title"]}), "/data/contains/2"),
    ("disclosure.released", event({"paths": ["/value", "/value"]}), "/data/paths/1"),
    ("party.identified", event({"party_id": "a", "identifiers": [{"scheme": "LEI", "id": "1"}] * 2}), "/data/identifiers/1"),
    ("party.identified", event({"party_id": "a", "merges": ["b", "b"]}), "/data/merges/1"),
    ("disclosure.withheld", event({"withheld": [{"path": "/period/begin", "reason": "x"}]}), "/data/withheld/0/path"),
    ("contract.signed", changed(SIGNED, "/data/references", [{"scheme": "DART", "id": "1"}] * 2), "/data/references/1"),
    ("contract.signed", changed(SIGNED, "/data/parties/0/roles", ["supplier", "supplier"]), "/data/parties/0/roles/1"),
    (
        "party.added",
        event({"party": {"party_id": "a", "name": "A", "roles": ["buyer"], "identifiers": [{"scheme": "LEI", "id": "1"}] * 2}}),
        "/data/party/identifiers/1",
    ),
    ("contract.signed", changed(SIGNED, "/data/figures", [figure("f"), figure("f")]), "/data/figures/1/figure_id"),
    (
        "contract.signed",
        changed(SIGNED, "/data/figures", [figure("f", derived_from={"figure_id": "g"}), figure("g")]),
        "/data/figures/0/derived_from/figure_id",
    ),
    (
        "contract.signed",
        changed(SIGNED, "/data/terms", {"volumes": [{"item_id": "cells", "period": "2025", "minimum": "2", "maximum": "1"}]}),
        "/data/terms/volumes/0/minimum",
    ),
    ("contract.signed", changed(SIGNED, "/data/figures", [figure("f"), figure("g", currency="ZZZ")]), "/data/figures/1/currency"),
    ("contract.signed", changed(SIGNED, "/data/terms", {"renewal": {"automatic": "yes"}}), "/data/terms/renewal/automatic"),
    (
        "contract.signed",
        changed(SIGNED, "/data/terms", {"renewal": {"automatic": True, "notice_days": 1.5}}),
        "/data/terms/renewal/notice_days",
    ),
]


@pytest.mark.parametrize(
    ("event_type", "body", "pointer"), FAULTS, ids=[f"{event_type} {i} {p}" for i, (event_type, _, p) in enumerate(FAULTS)]
)
def test_a_faulty_member_is_refused_with_a_pointer_to_it(
    api: httpx.Client, contract_id: str, event_type: str, body: Any, pointer: str
) -> None:
    head = head_of(api)
    answer = api.post(f"/contracts/{contract_id}/{path_of(event_type)}", json=body, headers=with_key())
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "refused"
    assert pointers(answer)[0] == pointer
    assert answer.json()["detail"].startswith(pointer)
    assert head_of(api) == head


def test_every_fault_has_its_pointer(api: httpx.Client, contract_id: str) -> None:
    body = stated(amount=1, currency="ZZZ", surprise=2) | {"effective_on": "2024-02-30", "unknown": 3}
    answer = api.post(f"/contracts/{contract_id}/figure-stated", json=body, headers=with_key())
    assert set(pointers(answer)) == {
        "/effective_on",
        "/unknown",
        "/data/figure/amount",
        "/data/figure/currency",
        "/data/figure/surprise",
    }


def test_a_number_where_a_decimal_string_belongs_is_refused_with_a_hint(api: httpx.Client, contract_id: str) -> None:
    answer = api.post(f"/contracts/{contract_id}/figure-stated", json=stated(amount=763_000_000), headers=with_key())
    assert "string" in answer.json()["errors"][0]["detail"]


def test_the_list_of_faults_is_bounded(api: httpx.Client, contract_id: str) -> None:
    body = note() | {f"member-{i}": i for i in range(20_000)}
    answer = api.post(f"/contracts/{contract_id}/note-added", json=body, headers=with_key())
    assert answer.status_code == 422
    assert len(pointers(answer)) == 100
    assert len(answer.content) < 20_000


ACCEPTED: list[tuple[str, Any]] = [
    ("figure.stated", stated(figure_id="dinar", amount="1.555", currency="KWD")),
    ("figure.stated", stated(figure_id="zero", amount="0")),
    ("figure.stated", stated(figure_id="cents", amount="0.10", currency="USD")),
    ("figure.stated", stated(figure_id="unit-price", amount="0.123456789012", scope="unit")),
    ("figure.stated", stated(figure_id="greatest", amount="9" * 28)),
    ("figure.stated", stated(figure_id="a:b/c._-" + "d" * 92)),
    ("note.added", event({"text": "x" * 5_000})),
    ("note.added", event({"text": "\u2028\u0001\u007f\U0010ffff"})),
    ("note.added", event({"text": "x"}, "2024-02-29")),
    ("note.added", event({"text": "x"}, "2999-12-31")),
    ("note.added", event({"text": "x"}, "2024-Q4")),
]


@pytest.mark.parametrize(("event_type", "body"), ACCEPTED, ids=[f"{event_type} {i}" for i, (event_type, _) in enumerate(ACCEPTED)])
def test_what_is_just_within_the_limits_is_recorded_as_sent(api: httpx.Client, event_type: str, body: Any) -> None:
    answer = api.post(f"/contracts/{open_contract(api)}/{path_of(event_type)}", json=body, headers=with_key())
    assert answer.status_code == 201, answer.text
    stored = api.get(f"/events/{answer.json()['events'][0]['event_id']}").json()
    assert (stored["data"], stored["effective_on"]) == (body["data"], body["effective_on"])


# Parameters


A_CONTRACT, LIST, FEED, EVENTS = "/contracts/{id}", "/contracts", "/events", "/contracts/{id}/events"
PARAMETERS: list[tuple[str, str, int, str]] = [
    (LIST, "unknown=1", 422, "query:unknown"),
    (LIST, "Limit=1", 422, "query:Limit"),
    (LIST, "=1", 422, "query:"),
    (LIST, "limit=1&limit=1", 422, "query:limit"),
    (LIST, "party=lges&party=isuzu", 422, "query:party"),
    *((path, f"limit={value}", 422, "query:limit") for path in (LIST, FEED, EVENTS) for value in ("0", "501", "-1", "1.0", "1_0", "x", "")),
    (LIST, "limit=%D9%A5", 422, "query:limit"),
    (LIST, "limit=" + "9" * 5_000, 422, "query:limit"),
    (LIST, "limit=%201", 422, "query:limit"),
    (LIST, "limit=1e2", 422, "query:limit"),
    (LIST, "party=" + "x" * 101, 422, "query:party"),
    (LIST, "currency=DOLLAR", 422, "query:currency"),
    *(
        (path, f"{name}=%00", 422, f"query:{name}")
        for path, name in ((LIST, "party"), (LIST, "role"), (LIST, "status"), (LIST, "currency"))
    ),
    (LIST, "reference=a:%00", 422, "query:reference"),
    (FEED, "event_type=figure_stated", 422, "query:event_type"),
    (FEED, "event_type=%00", 422, "query:event_type"),
    (FEED, "event_type=" + "x" * 61, 422, "query:event_type"),
    (FEED, "wait=-1", 422, "query:wait"),
    *(
        (path, f"after={value}", 400, "query:after")
        for path in (LIST, FEED, EVENTS)
        for value in ("x", "r0", "MQ", "%F0%9F%98%80", "-", "=", "x" * 200)
    ),
    *((path, f"after={value}", 422, "query:after") for path in (LIST, FEED, EVENTS) for value in ("", "x" * 201, "%00")),
    *(
        (A_CONTRACT, f"effective_on={value}", 422, "query:effective_on")
        for value in ("2023-02-30", "2023-06", "2023", "today", "", "20230601")
    ),
    (A_CONTRACT, "effective_on=1688169600", 422, "query:effective_on"),
    (A_CONTRACT, "effective_on=2023-06-01T00:00:00", 422, "query:effective_on"),
    (A_CONTRACT, "effective_on=0", 422, "query:effective_on"),
    (A_CONTRACT, "effective_on=10000-01-01", 422, "query:effective_on"),
    (A_CONTRACT, "published_by=2023-06", 422, "query:published_by"),
    *(
        (A_CONTRACT, f"known_at={value}", 422, "query:known_at")
        for value in ("2023-06-01", "2023-06-01T00:00:00", "1688169600", "0", "now", "")
    ),
    (A_CONTRACT, "known_at=2023-06-01T25:00:00Z", 422, "query:known_at"),
    (A_CONTRACT, "known_at=2023-06-01T00:00:00.1234567Z", 422, "query:known_at"),
    (A_CONTRACT, "known_at=2023-06-01T00:00:00%2B09:00:00", 422, "query:known_at"),
    (A_CONTRACT, "known_at=2023-06-01T00:00:00+09:00", 422, "query:known_at"),
    *(
        (A_CONTRACT, f"known_position={value}", 422, "query:known_position")
        for value in ("0", "-1", "x", "1.0", "9007199254740993", "999999999")
    ),
    *((A_CONTRACT, f"revision={value}", 422, "query:revision") for value in ("0", "-1", "x", "2147483648")),
    (A_CONTRACT, "revision=1&known_position=1", 422, "query:known_position"),
    (A_CONTRACT, "revision=1&known_at=2023-06-01T00:00:00Z", 422, "query:known_at"),
    (A_CONTRACT, "state=full", 422, "query:state"),
]


@pytest.mark.parametrize(("path", "query", "status", "pointer"), PARAMETERS, ids=[f"{path} {query[:40]}" for path, query, *_ in PARAMETERS])
def test_a_faulty_parameter_is_refused_by_its_name(
    api: httpx.Client, contract_id: str, path: str, query: str, status: int, pointer: str
) -> None:
    answer = api.get(f"{path.format(id=contract_id)}?{query}")
    assert answer.status_code == status, answer.text
    assert pointers(answer)[0] == pointer


@pytest.mark.parametrize(
    "query", ["strict=yes", "strict=1", "strict=True", "strict=", "validate_only=true&validate_only=true", "dry_run=true"]
)
def test_a_faulty_parameter_of_an_append_is_refused(api: httpx.Client, contract_id: str, query: str) -> None:
    for path in (f"/contracts/{contract_id}/note-added", "/contracts"):
        answer = api.post(f"{path}?{query}", json=note(), headers=with_key())
        assert (answer.status_code, pointers(answer)) == (422, [f"query:{query.partition('=')[0]}"])


def test_an_unknown_parameter_is_refused_wherever_it_stands(service: RunningService, api: httpx.Client, contract_id: str) -> None:
    event_id = api.get(f"/contracts/{contract_id}/events").json()["items"][0]["event_id"]
    for path in (f"/events/{event_id}", "/events", "/contracts", f"/contracts/{contract_id}", f"/contracts/{contract_id}/events"):
        assert api.get(f"{path}?unknown=1").status_code == 422
    with service.client(service.admin) as client:
        assert client.get("/v1/ledgers?unknown=1").status_code == 422
        assert client.put("/v1/ledgers/main?unknown=1", json={}).status_code == 422


def test_thousands_of_parameters_are_refused_at_once(api: httpx.Client) -> None:
    answer = api.get("/contracts?" + "&".join(f"{i:x}" for i in range(12_000)) + "&0")
    assert answer.status_code == 422
    assert len(answer.content) < 20_000


@pytest.mark.parametrize("query", ["", "&", "&&", "strict=false", "strict=false&validate_only=false"])
def test_parameters_that_say_nothing_change_nothing(api: httpx.Client, query: str) -> None:
    assert api.post(f"/contracts?{query}", json=SIGNED, headers=with_key()).status_code == 201


@pytest.mark.parametrize("value", ["' OR 1=1 --", "%", "{a,b}", '"', "\\", "lges role=buyer", "\ufffd", "a\nb", "ÿ"])
def test_odd_values_of_filters_are_values(api: httpx.Client, value: str) -> None:
    open_contract(api)
    for name, given in (("party", value), ("product", value), ("reference", f"DART:{value}")):
        answer = api.get(f"/contracts?{name}={quote(given, safe='')}")
        assert (answer.status_code, answer.json()["items"]) == (200, [])


BODYLESS = [
    (method, path)
    for method, path, documented in OPERATIONS
    if method in ("POST", "DELETE") and documented.body is None and documented.lines is None
]


@pytest.mark.parametrize(("method", "path"), BODYLESS)
def test_a_body_that_would_be_passed_over_is_refused(api: httpx.Client, method: str, path: str) -> None:
    address = re.sub(r"\{[a-z_]+\}", "01890000-0000-7000-8000-0000000000ff", path.removeprefix("/v1/ledgers/{ledger}"))
    for body in (b'{"reason": "lunch"}', b"x", b"[]"):
        refused = api.request(method, address, content=body, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["detail"]) == (422, "This takes no body; leave it out."), body
    streamed = api.request(method, address, content=iter([b"{", b'"reason": 1}']))
    assert streamed.status_code == 422
    for body in (b"", b"{}", b" {}\n"):
        assert api.request(method, address, content=body).status_code == 404, body


def test_there_are_operations_that_take_no_body() -> None:
    assert ("POST", "/v1/ledgers/{ledger}/webhooks/{webhook_id}/pause") in BODYLESS
