"""The log's bytes: canonical JSON, headers, bodies, sealed parts and the hashes over them, by frozen vectors and by an oracle."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Table

from service.domain.events import RecordedEvent
from service.log import header as log_header
from service.log.header import (
    MAX_HEADER_BYTES,
    NO_PREVIOUS,
    SCHEMA,
    Header,
    SealedPart,
    body_bytes,
    body_digest,
    canonical,
    decode_header,
    event_hash,
    header_bytes,
    new_salts,
    sealed_digest,
    sealed_map,
    state_hash,
)
from service.log.ledger import instant
from service.projections.contracts import ContractRow
from service.tables import metadata
from tests.domain.histories import CELLS, CONTRACT, Log, delivered, log_of, noted, reported, signed

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "log"
REFERENCE = Path(os.environ.get("LEDGER_REFERENCE_DATA", ROOT / ".." / "shared" / "data"))


def vector(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return read


WORKED = vector("worked-example")
FULL = vector("full-header")
SEALED = vector("sealed")
STATE = vector("state")


# Frozen vectors


def test_the_worked_example_is_the_one_of_the_design() -> None:
    assert (len(WORKED["body"]), WORKED["body_digest"]) == (285, "82cc0079d47f86623200748f9717136a4c2708842a010fa4855d90af2fae16fb")
    assert (len(WORKED["header"]), WORKED["event_hash"]) == (546, "c2d155a38c110bbce5cc0a2fb2f4bbb85aba8302bb084d0132489cd0842f0b1a")
    assert (WORKED["body_length"], WORKED["header_length"]) == (285, 546)


def test_the_worked_body_is_made_from_its_parts_and_has_its_digest() -> None:
    parts = json.loads(WORKED["body"])
    body = body_bytes(parts["data"], parts["source"], None, parts["salt"])
    assert body == WORKED["body"].encode()
    assert body_digest(body) == WORKED["body_digest"] == hashlib.sha256(body).hexdigest()


def test_the_worked_header_is_made_from_its_members_in_any_order_and_has_its_hash() -> None:
    members = list(json.loads(WORKED["header"]).items())
    for _ in range(5):
        random.shuffle(members)
        assert header_bytes(dict(members)) == WORKED["header"].encode()
    assert event_hash(WORKED["header"].encode()).hex() == WORKED["event_hash"]
    assert hashlib.sha256(b"\x00" + WORKED["header"].encode()).hexdigest() == WORKED["event_hash"]


def test_a_header_with_every_member_is_the_frozen_one() -> None:
    assert set(FULL["members"]) == set(Header.__struct_fields__)
    assert header_bytes(FULL["members"]) == FULL["header"].encode()
    assert event_hash(FULL["header"].encode()).hex() == FULL["event_hash"]


def test_sealed_parts_with_fixed_salts_have_the_frozen_digests() -> None:
    parts = [SealedPart(path=part["path"], value=part["value"], salt=part["salt"]) for part in SEALED["parts"]]
    for part, frozen in zip(parts, SEALED["parts"], strict=True):
        assert canonical([part.salt, part.path, part.value]) == frozen["canonical"].encode()
        assert hashlib.sha256(frozen["canonical"].encode()).hexdigest() == frozen["digest"]
    assert sealed_map(parts) == sealed_map(parts[::-1]) == SEALED["map"]
    assert canonical(sealed_map(parts[::-1])) == SEALED["map_canonical"].encode()
    assert sealed_digest(SEALED["map"]) == SEALED["sealed_digest"] == FULL["members"]["sealed_digest"]


def test_a_state_has_the_frozen_hash() -> None:
    assert STATE["hashed"].encode() == canonical({"effective_on": STATE["effective_on"], "state": json.loads(STATE["state"])})
    assert state_hash(STATE["effective_on"], STATE["state"].encode()) == STATE["state_hash"]
    assert hashlib.sha256(STATE["hashed"].encode()).hexdigest() == STATE["state_hash"]


def test_every_vector_of_the_folder_is_used() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == {"worked-example", "full-header", "sealed", "state"}


# Canonical JSON

_LONE_FREE = st.characters(exclude_categories=["Cs"])
texts = st.one_of(
    st.text(_LONE_FREE, max_size=20), st.text(st.characters(max_codepoint=0x9F), max_size=10), st.sampled_from(["", "\x00", "\x7f"])
)
keys = st.text(st.characters(max_codepoint=0x7F), max_size=10)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(1 - 2**53, 2**53 - 1), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(values)
@example({"a": "\u2028\u2029\ufeff\ufffe\uffff", "A": "</script>", "": "", " ": "\t\n\r\b\f\v\x1f\\/\"'"})
@example({"a": "\u00e9", "b": "e\u0301"})
@example({"a": "\U0001f600\U0010ffff\U00010000", "b": "이쓰즈 いすゞ"})
@example([2**53 - 1, 1 - 2**53, 0, True, False, None])
@example({"10": 1, "9": 2, "1": 3, "a": 4, "B": 5, "_": 6, "~": 7, "\x7f": 8, "\x00": 9, "\n": 10})
def test_canonical_bytes_are_those_of_rfc_8785(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)
    assert orjson.loads(canonical(value)) == value


@given(st.dictionaries(keys, st.integers(0, 9), max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_members_as_sent_does_not_matter(members: dict[str, int], order: random.Random) -> None:
    shuffled = list(members.items())
    order.shuffle(shuffled)
    assert canonical(dict(shuffled)) == canonical(members)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {"a": "\ud800"}, {1: "a"}, 2**70])
def test_what_json_cannot_hold_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical(value)


def test_outside_the_profile_the_two_writers_differ_which_is_why_it_is_restricted() -> None:
    assert canonical(56.0) != rfc8785.dumps(56.0)
    astral = {"\ufb33": 1, "\U0001f602": 2}
    assert canonical(astral) != rfc8785.dumps(astral)
    assert canonical({"\u20ac": 1, "\u00f6": 2}) == rfc8785.dumps({"\u20ac": 1, "\u00f6": 2})


def whole(literal: str) -> int | float:
    """A number of the vectors; 56.0, in structures, is 56."""
    return int(float(literal)) if float(literal).is_integer() and float(literal) < 2**53 else float(literal)


# Of the JCS vectors, what lies outside the profile: the member, and how it stands in the expected output.
OUTSIDE = {"values": ("numbers", rb'"numbers":\[[^]]*\],'), "weird": ("\U0001f602", '"\U0001f602":"Smiley",'.encode())}


@pytest.mark.parametrize("name", ["arrays", "french", "structures", "unicode", "values", "weird"])
def test_the_vectors_of_jcs_hold_wherever_no_float_and_no_astral_key_occurs(name: str) -> None:
    folder = REFERENCE / "jcs"
    if not folder.exists():
        pytest.skip(f"no reference data in {folder}; LEDGER_REFERENCE_DATA names another place")
    assert len(list((folder / "input").iterdir())) == 6
    sent, expected = (folder / "input" / f"{name}.json").read_text(), (folder / "output" / f"{name}.json").read_bytes().rstrip(b"\n")
    value = json.loads(sent, parse_float=whole)
    if name in OUTSIDE:
        member, cut = OUTSIDE[name]
        del value[member]
        expected, cuts = re.subn(cut, b"", expected)
        assert cuts == 1
    assert canonical(value) == expected


# Headers and bodies


def test_members_that_do_not_apply_are_absent_and_never_null() -> None:
    members = json.loads(WORKED["header"])
    optional = ("causation_id", "correlation_id", "hypothetical", "sealed_digest")
    assert header_bytes(members | dict.fromkeys(optional)) == WORKED["header"].encode()
    assert b"null" not in header_bytes(members | dict.fromkeys((*optional, "effective_on")))
    assert b"evidence" not in body_bytes({}, {}, None, "")


def test_a_header_reads_back_as_it_was_written() -> None:
    for text in (WORKED["header"], FULL["header"]):
        read = decode_header(text.encode())
        assert header_bytes(msgspec.structs.asdict(read)) == text.encode()
        assert read.schema == SCHEMA == "contract-ledger/header/v1"


@pytest.mark.parametrize("change", [{"unknown": 1}, {"position": "2"}, {"position": 2.5}, {"revision": None}, {"prev": 7}])
def test_a_header_with_a_member_too_many_or_of_another_kind_is_not_read(change: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_header(canonical(json.loads(WORKED["header"]) | change))


@pytest.mark.parametrize("name", sorted(json.loads(WORKED["header"])))
def test_a_header_without_a_member_that_every_header_has_is_not_read(name: str) -> None:
    members = {other: member for other, member in json.loads(WORKED["header"]).items() if other != name}
    if name == "effective_on":  # a correction has no day of its own
        assert decode_header(canonical(members)).effective_on is None
    else:
        with pytest.raises(msgspec.ValidationError):
            decode_header(canonical(members))


def test_a_header_above_4_kib_is_refused() -> None:
    members = json.loads(WORKED["header"])
    room = MAX_HEADER_BYTES - len(header_bytes(members | {"event_type": ""}))
    assert MAX_HEADER_BYTES == 4096
    assert len(header_bytes(members | {"event_type": "x" * room})) == 4096
    with pytest.raises(ValueError, match="at most 4096 bytes, this one 4097"):
        header_bytes(members | {"event_type": "x" * (room + 1)})
    with pytest.raises(ValueError, match="at most 4096 bytes"):
        header_bytes(members | {"event_type": "값" * (room // 3 + 1)})  # bytes count, not characters


def test_salts_are_16_random_bytes_each_and_stand_in_bodies_in_lower_case_hex() -> None:
    salts = new_salts(200)
    assert {len(salt) for salt in salts} == {16}
    assert len({*salts, *new_salts(200)}) == 400
    log = log_of(reported(), noted())
    kept = [orjson.loads(body)["salt"] for stored in log.stored.values() for _, body in stored]
    assert len({*kept}) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", salt) for salt in kept)


def test_equal_bodies_under_different_salts_have_different_digests() -> None:
    assert body_digest(body_bytes({"a": 1}, {}, None, "00" * 16)) != body_digest(body_bytes({"a": 1}, {}, None, "01" * 16))


# What a client sent is hashed as it was sent: no defaults, no other spelling of a number.


def test_the_stored_body_is_what_was_sent_and_nothing_more() -> None:
    sent = delivered("d1", "2024-03-01", "10.50", value={"amount": "0", "currency": "KRW"})
    log = log_of(reported(items=[CELLS]), sent)
    body = orjson.loads(log.stored[CONTRACT][1][1])
    assert (body["data"], body["source"], set(body)) == (sent["data"], sent["source"], {"data", "source", "salt"})


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (datetime(2026, 11, 22, 9, 30, 0, 123456, tzinfo=UTC), "2026-11-22T09:30:00.123456Z"),
        (datetime(2026, 11, 22, 9, 30, tzinfo=UTC), "2026-11-22T09:30:00.000000Z"),
        (datetime(2026, 11, 22, 9, 30, 0, 100000, tzinfo=UTC), "2026-11-22T09:30:00.100000Z"),
        (datetime(2026, 11, 22, 9, 30, 0, 1, tzinfo=UTC), "2026-11-22T09:30:00.000001Z"),
        (datetime(2026, 11, 22, 9, 30, tzinfo=timezone(timedelta(hours=9))), "2026-11-22T00:30:00.000000Z"),
        (datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=9))), "2025-12-31T15:30:00.000000Z"),
    ],
)
def test_an_instant_is_utc_with_always_six_digits(at: datetime, text: str) -> None:
    assert instant(at) == text


@given(st.integers(0, 2 * 10**17), st.sampled_from([-12, 0, 9, 14]))
def test_every_instant_reads_back_and_sorts_as_text(microseconds: int, hours: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    there = at.astimezone(timezone(timedelta(hours=hours)))
    assert len(instant(there)) == len("2026-01-31T09:30:00.123456Z")
    assert datetime.fromisoformat(instant(there)) == there
    assert instant(there) < instant(there + timedelta(microseconds=1))


# Every stored member and the digest that covers it


def test_every_header_member_is_covered_by_the_event_hash_and_every_body_member_by_the_body_digest() -> None:
    members = FULL["members"]
    for name, member in members.items():
        changed = members | {name: f"{member}x" if isinstance(member, str) else (None if member is True else member + 1)}
        assert event_hash(header_bytes(changed)).hex() != FULL["event_hash"], name
    body = {"data": {"a": "1"}, "source": {"kind": "news"}, "evidence": [{"name": "n"}], "salt": "00" * 16}
    digest = body_digest(body_bytes(**body))
    for name in body:
        changed = body | {name: "01" * 16 if name == "salt" else {"b": "2"}}
        assert body_digest(body_bytes(**changed)) != digest, name


HEADER_MEMBERS = dict.fromkeys(
    (
        "body_digest", "causation_id", "contract_id", "correlation_id", "effective_on", "event_id", "event_type", "hypothetical",
        "ledger_id", "position", "prev", "recorded_at", "recorded_by", "revision", "schema", "schema_version", "sealed_digest",
    ),
    "event_hash",
)  # fmt: skip
BODY_MEMBERS = dict.fromkeys(("data", "source", "evidence", "salt", "sealed", "sealed_until"), "body_digest")
COPY = "a copy of the header, compared in verification"
FOLD = "not hashed: the fold of the contract's events, folded again and compared in verification"
OUTSIDE_THE_LOG = "not of the log: nothing that an event says stands here"
COLUMNS: dict[str, dict[str, str]] = {
    "events": dict.fromkeys(("ledger_id", "position", "contract_id", "revision", "event_id", "event_type", "recorded_at"), COPY)
    | {"header": "event_hash", "event_hash": "the prev of the contract's next header, and the tree"},
    "payloads": {"ledger_id": COPY, "position": COPY, "body": "body_digest", "sealed": "the map in the body, and sealed_digest"},
    "batches": {
        "ledger_id": COPY,
        "last_position": "not hashed: an event must stand there, and none after the last, in verification",
        "recorded_at": "not hashed: equals that of the event at last_position, compared in verification",
        "frontier": "the tree of the events up to last_position, in verification",
    },
    "checkpoints": dict.fromkeys(("ledger_id", "epoch", "size", "root", "note"), "the note's signature and the tree"),
    "epochs": {
        **dict.fromkeys(("ledger_id", "epoch", "note"), "the note's signature"),
        "begun_at": OUTSIDE_THE_LOG,
    },
    "cosignatures": dict.fromkeys(("ledger_id", "epoch", "size", "name", "line"), "the witness's signature"),
    **{
        name: dict.fromkeys((column.name for column in metadata.tables[name].columns), OUTSIDE_THE_LOG)
        for name in ("witnesses", "replays", "webhooks", "webhook_holds", "webhook_attempts")
    },
    "signing_times": dict.fromkeys(("ledger_id", "signed_at"), OUTSIDE_THE_LOG),
    "deployment": dict.fromkeys(("one", "name"), OUTSIDE_THE_LOG),
    "signing_keys": dict.fromkeys(("public_key", "registered_at", "retired_at"), OUTSIDE_THE_LOG),
    "tiles": dict.fromkeys(("ledger_id", "level", "number", "hashes", "root"), "the tree of the events, in verification"),
    "contracts": dict.fromkeys((*ContractRow.__struct_fields__, "ledger_id", "generation"), FOLD),
    "deliveries": dict.fromkeys(("ledger_id", "generation", "contract_id", "delivery_id", "revision"), FOLD),
    "unique_references": dict.fromkeys(("ledger_id", "scheme", "id", "contract_id"), FOLD),
    "ledgers": dict.fromkeys(
        (
            *("ledger_id", "name", "time_zone", "epoch", "generation", "layout", "if_match_required"),
            *("unique_reference_schemes", "public_log", "strict", "clock_accepted_at", "created_at"),
        ),
        OUTSIDE_THE_LOG,
    ),
    "ledger_locks": {"ledger_id": OUTSIDE_THE_LOG},
    **{
        name: dict.fromkeys((column.name for column in metadata.tables[name].columns), "the rows of contracts, in verification")
        for name in ("outlook_heads", "outlooks", "deadlines", "commitments", "parties")
    },
    "idempotency": {
        "ledger_id": OUTSIDE_THE_LOG,
        "key": OUTSIDE_THE_LOG,
        "salt": "itself",
        "digest": "itself, with salt",
        "receipt": "itself",
    },
    "imports": dict.fromkeys(
        (
            *("ledger_id", "import_id", "recorded_by", "salt", "status"),
            *("recorded", "refused", "held_back", "last_line", "created_at"),
        ),
        OUTSIDE_THE_LOG,
    ),
    "import_lines": dict.fromkeys(
        ("ledger_id", "import_id", "line", "position", "contract_id", "code", "rule", "pointer", "detail"), OUTSIDE_THE_LOG
    )
    | {"digest": "itself, with the import's salt"},
    "principals": dict.fromkeys(("principal_id", "name", "created_at"), OUTSIDE_THE_LOG),
    "grants": dict.fromkeys(("principal_id", "ledger_id", "rights"), OUTSIDE_THE_LOG),
    "api_keys": dict.fromkeys(("key_id", "principal_id", "key_hash", "created_at", "expires_at", "revoked_at"), OUTSIDE_THE_LOG),
}
"""Whoever adds a column or a member says here which digest covers it, and makes verification compare it."""


def test_every_stored_member_has_the_digest_that_covers_it() -> None:
    assert set(Header.__struct_fields__) == set(HEADER_MEMBERS)
    sealed = [SealedPart(path="/a", value=1, salt="", until="2026")]
    assert set(orjson.loads(body_bytes({}, {}, [], "", sealed))) == set(BODY_MEMBERS)
    tables: dict[str, Table] = dict(metadata.tables)
    assert {name: {column.name for column in table.columns} for name, table in tables.items()} == {
        name: set(columns) for name, columns in COLUMNS.items()
    }


def test_the_columns_that_repeat_the_header_are_copies_of_it() -> None:
    log = Log()
    batch = log.commit(log.request(reported(items=[CELLS]), signed(), delivered("d1", "2024-03-01")))
    assert len(batch.rows.events) == len(batch.rows.payloads) == 3
    for row, payload in zip(batch.rows.events, batch.rows.payloads, strict=True):
        header = orjson.loads(row["header"])
        copies = {name: member for name, member in row.items() if name not in ("header", "event_hash")}
        assert copies == {name: header[name] for name in copies}
        assert set(row) == {column for column, cover in COLUMNS["events"].items() if column != "ledger_id"}
        assert row["event_hash"] == "\\x" + event_hash(row["header"]).hex()
        assert header["body_digest"] == body_digest(payload["body"])
        assert payload["position"] == header["position"]


def test_each_header_is_linked_to_the_one_before_it_in_its_contract() -> None:
    log = log_of(reported(items=[CELLS]), signed(), delivered("d1", "2024-03-01"))
    log.append(reported(), contract_id=CONTRACT[:-1] + "2")
    for stored in log.stored.values():
        prev = NO_PREVIOUS
        for revision, (header, _) in enumerate(stored, 1):
            known = decode_header(header)
            assert (known.prev, known.revision, header) == (prev, revision, rfc8785.dumps(orjson.loads(header)))
            prev = event_hash(header).hex()
    assert NO_PREVIOUS == "0" * 64


def test_what_the_fold_reads_of_an_event_is_all_in_header_and_body() -> None:
    fields = {"recorded_on": "recorded_at", "day": "effective_on", "data": "body_digest", "source": "body_digest"}
    fields |= {"sealed": "sealed_digest", "corrected_by": "revision"}
    assert {fields.get(name, name) for name in RecordedEvent.__struct_fields__} <= set(HEADER_MEMBERS)


# The page for auditors

PAGE = ROOT / "docs" / "log-format.md"


def code_blocks(language: str) -> list[str]:
    parts = PAGE.read_text().split("```")[1::2]
    return [part.removeprefix(language + "\n") for part in parts if part.startswith(language + "\n")]


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # -S: without site-packages only the standard library can be imported; -I: nothing of this folder either.
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_program_on_the_page_recomputes_the_worked_example_with_the_standard_library_alone(tmp_path: Path) -> None:
    (program,) = code_blocks("python")
    ran = run(program, tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        f"body_digest {WORKED['body_digest']}",
        f"event_hash {WORKED['event_hash']}",
        f"sealed_digest {SEALED['sealed_digest']}",
    ]


def test_the_program_on_the_page_fails_when_a_byte_of_the_example_is_another(tmp_path: Path) -> None:
    (program,) = code_blocks("python")
    changed = program.replace("may rise", "may fall", 1)
    assert changed != program
    assert "AssertionError" in run(changed, tmp_path).stderr


def test_the_page_shows_the_bytes_of_the_vectors_and_names_every_member() -> None:
    text = PAGE.read_text()
    for shown in (WORKED["body"], WORKED["header"], WORKED["body_digest"], WORKED["event_hash"], SEALED["map_canonical"]):
        assert shown in text
    for name in (*HEADER_MEMBERS, *BODY_MEMBERS):
        assert f"`{name}`" in text, name
    assert str(MAX_HEADER_BYTES) in text.replace(",", "")
    assert log_header.__doc__
    assert "docs/log-format.md" in log_header.__doc__
