"""Every attack on a ledger that has every event type: found, named and located by `verify`, and by verify.py where a bundle can show it.

The attacks are made on the database, by one whom no trigger holds. The bundle is then made from the damaged database by the service's own
code, under the checkpoint that was signed before; by an operator who signs anew, for whom there is the checkpoint that an auditor kept.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.audit.book import Difference, open_connection
from service.audit.bundle import Wanted
from service.audit.outside import Outside
from service.audit.replay import verify
from service.domain.events import EVENT_TYPES
from service.errors import LedgerError
from service.log.checkpoint import Checkpoint
from service.log.header import body_digest, canonical, event_hash
from service.log.heads import Head, keep_head
from service.log.notes import Note, Signer
from service.log.tiles import full_tiles
from service.log.tree import Extension, extend, root_of
from tests.api.bodies import event, record
from tests.api.running import SIGNING_KEY, RunningService, running
from tests.api.test_imports import Importer, acts_on, every_type, note, reveal_of, sealing_lines
from tests.audit.bundles import Operator, Said, made, verified
from tests.conftest import NewDatabase
from tests.servers import rows

OPERATOR = Operator()
KEY = ("--key", OPERATOR.verifier_key)
UNEXPLAINED = "the body is missing, and no erasure explains it"
TABLES = ("batches", "events", "payloads", "tiles", "checkpoints", "contracts", "deliveries", "signing_keys")
Superuser = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Attacked:
    """A ledger with every event type, more events than a tile holds, one erased and some sealed; its note and size before any attack."""

    service: RunningService
    superuser: Superuser
    ledger_id: str
    note: str
    size: int
    kept: Path

    @property
    def url(self) -> str:
        return self.service.database.service_url

    def difference(self) -> Difference | None:
        """What `verify` finds first."""
        outside = Outside(str(self.kept))
        return outside.verify(verify, self.url, "main", lambda *_: None, processes=1).difference

    def bundle(self, folder: Path, note: str | None, *arguments: str) -> Said | None:
        """What verify.py says of the bundle as the operator would make it now, signed anew if no note is given; None if it cannot be."""
        try:
            _, written = made(self.url, "main", OPERATOR, Wanted(sealed=True), None if note is None else self.size, note)
        except (LedgerError, AssertionError, StopIteration):
            return None
        return verified(folder, written, *KEY, *arguments)

    def kept_by_auditor(self, folder: Path) -> tuple[str, str]:
        (folder / "kept").write_text(self.note)
        return "--kept", "kept"

    def positions(self) -> dict[str, int]:
        """A position of each event type whose body is there; not the first event, nor the last of its contract, where there is another."""
        query = """
            SELECT DISTINCT ON (event_type) event_type, position FROM events e JOIN payloads p USING (ledger_id, position)
            WHERE e.ledger_id = %s ORDER BY event_type, position
        """
        return dict(self.superuser.execute(query.encode(), [self.ledger_id]).fetchall())


@pytest.fixture(scope="module")
def attacked(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("data")
    with new_database() as database, running(database, folder) as service:
        ledger_id = service.make_ledger("main", "Asia/Seoul")
        importer = Importer(service, "main")
        with importer.http:
            fill(importer)
            signed = importer.http.get("/log/checkpoint")
            assert signed.status_code == 200, signed.text
        size = rows(database.service_url, "SELECT max(last_position) FROM batches WHERE ledger_id = %s", ledger_id)[0][0]
        with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
            for table in TABLES:
                superuser.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
                superuser.execute(f"CREATE TABLE kept_{table} AS TABLE {table}")
            superuser.execute("ALTER TABLE events DROP CONSTRAINT events_hash_check")
            lines, _ = made(database.service_url, "main", OPERATOR, Wanted())
            yield Attacked(service, superuser, ledger_id, lines[0]["checkpoint"], size, folder / "kept-checkpoints")


def fill(importer: Importer) -> None:
    assert not importer.send(every_type())["not_recorded"]
    assert not importer.send([*acts_on(importer.export()), *sealing_lines()])["not_recorded"]
    sealed = next(line for line in importer.export(sealed="true") if line.get("sealed") and line["event_type"] == "figure.stated")
    assert importer.send([reveal_of(sealed)])["recorded"] == 1
    contract_id = sealed["contract"]
    assert importer.send([note(contract_id, f"one of many, {number}") for number in range(150)])["recorded"] == 150
    erased = importer.export()[-1]
    erasure = event({"target": erased["event_id"], "legal_basis": "a law"}, None)
    assert record(importer.http, contract_id, "event.erased", erasure).status_code == 201
    assert importer.send([note(contract_id, f"after it, {number}") for number in range(10)])["recorded"] == 10


@contextmanager
def damaged(attacked: Attacked, *statements: str) -> Iterator[None]:
    """The database after these statements, or whatever is done to it; all is well again at the end."""
    try:
        for statement in statements:
            attacked.superuser.execute(statement.encode())
        yield
    finally:
        touched = [table for table in TABLES if not statements or any(table in statement for statement in statements)]
        with attacked.superuser.transaction():
            for table in touched:
                attacked.superuser.execute(f"DELETE FROM {table}")
                attacked.superuser.execute(f"INSERT INTO {table} TABLE kept_{table}")


def test_the_ledger_has_every_event_type_and_is_sound(attacked: Attacked, tmp_path: Path) -> None:
    assert set(attacked.positions()) == set(EVENT_TYPES)
    assert attacked.difference() is None
    said = attacked.bundle(tmp_path, attacked.note, *attacked.kept_by_auditor(tmp_path))
    assert said is not None
    assert said.status == 0, said.output


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
def test_a_header_a_body_and_a_copy_of_every_event_type_are_watched(attacked: Attacked, tmp_path: Path, event_type: str) -> None:
    at = attacked.positions()[event_type]
    flipped = "set_byte({0}, octet_length({0}) / 2, get_byte({0}, octet_length({0}) / 2) # 1)"
    for table, column in (("events", "header"), ("payloads", "body")):
        with damaged(attacked, f"UPDATE {table} SET {column} = {flipped.format(column)} WHERE position = {at}"):
            found = attacked.difference()
            assert found is not None
            assert found.where == f"position {at}", found
    with damaged(attacked, f"UPDATE payloads SET body = body || ' ' WHERE position = {at}"):
        said = attacked.bundle(tmp_path, attacked.note)
        assert said is not None
        assert said.of("invalid") - {"erasures"} == {"bodies"}, said.output
        assert f"(position {at})" in said.checks["bodies"][1]
    with damaged(attacked, f"UPDATE events SET event_type = 'note.added', event_id = gen_random_uuid() WHERE position = {at}"):
        found = attacked.difference()
        assert found is not None
        assert found.where == f"position {at}" or (event_type, found.sentence) == ("event.erased", UNEXPLAINED)


def rechained(attacked: Attacked, first: int) -> None:
    """Make everything anew that follows from the bodies: digests, links, hashes, frontiers and tiles, by one who knows how."""
    run = attacked.superuser.execute
    last: dict[str, str] = {}
    tree, leaves = Extension(b"", 0, []), []
    query = "SELECT position, header, body FROM events LEFT JOIN payloads USING (ledger_id, position) ORDER BY position"
    for position, (_, header, body) in enumerate(run(query).fetchall(), 1):
        members = json.loads(header)
        members["prev"] = last.get(members["contract_id"], "0" * 64)
        if body is not None and position >= first:
            members["body_digest"] = body_digest(body)
        made_anew = canonical(members)
        leaves.append(event_hash(made_anew))
        last[members["contract_id"]] = leaves[-1].hex()
        run("UPDATE events SET header = %s, event_hash = %s WHERE position = %s", [made_anew, leaves[-1], position])
    run("DELETE FROM tiles")
    for (size,) in run("SELECT last_position FROM batches WHERE last_position > 0 ORDER BY 1").fetchall():
        tree = extend(tree.frontier, tree.size, leaves[tree.size : size])
        run("UPDATE batches SET frontier = %s WHERE last_position = %s", [tree.frontier, size])
        for statement, parameters in full_tiles(attacked.ledger_id, sorted(tree.full)):
            run(statement, parameters)
    for contract_id, event_hash_now in last.items():
        run("UPDATE contracts SET last_hash = decode(%s, 'hex') WHERE contract_id = %s", [event_hash_now, contract_id])
    attacked_root = root_of(tree.frontier)
    run("UPDATE checkpoints SET root = %s WHERE size = %s", [attacked_root, tree.size])


def edit_and_rechain(attacked: Attacked) -> int:
    """Another salt in the body of the middle event, which no state shows, and everything made anew after it; the event's position."""
    run = attacked.superuser.execute
    row = run("SELECT position, body FROM payloads WHERE position >= %s ORDER BY position LIMIT 1", [attacked.size // 2]).fetchone()
    assert row
    body = json.loads(row[1])
    run("UPDATE payloads SET body = %s WHERE position = %s", [canonical({**body, "salt": "0" * 32}), row[0]])
    rechained(attacked, row[0])
    return int(row[0])


def test_everything_recomputed_is_found_by_the_root_that_was_signed(attacked: Attacked, tmp_path: Path) -> None:
    with damaged(attacked):
        edit_and_rechain(attacked)
        found = attacked.difference()
        assert found is not None
        assert found.where == f"checkpoint {attacked.size} of epoch 1"
        said = attacked.bundle(tmp_path, attacked.note)
        assert said is not None
        assert said.of("invalid") == {"tree", "erasures"}, said.output
        assert "is not in the tree whose root was signed" in said.checks["erasures"][1]


def test_with_the_key_stolen_too_it_is_found_by_what_is_kept(attacked: Attacked, tmp_path: Path) -> None:
    with damaged(attacked):
        edit_and_rechain(attacked)
        sign_anew(attacked)
        assert verify(attacked.url, "main", lambda *_: None, processes=1).difference is None, "the database is sound in itself"
        found = attacked.difference()
        assert found is not None
        assert found.where == f"checkpoint {attacked.size}, as it is kept"
        assert "another root" in found.sentence
        said = attacked.bundle(tmp_path, None, *attacked.kept_by_auditor(tmp_path))
        assert said is not None
        assert said.of("invalid") == {"consistency"}, said.output


def sign_anew(attacked: Attacked) -> None:
    """Put a checkpoint that is signed by the deployment's own key in the place of each."""
    signer = Signer(base64.b64decode(SIGNING_KEY))
    for epoch, size, root, signed in attacked.superuser.execute("SELECT epoch, size, root, note FROM checkpoints").fetchall():
        was = Checkpoint.parse(Note.parse(signed).text)
        text = replace(was, root=root).text()
        made_anew = Note(text, (signer.sign(was.origin, text),)).format()
        attacked.superuser.execute("UPDATE checkpoints SET note = %s WHERE epoch = %s AND size = %s", [made_anew, epoch, size])


MIDDLE = "(SELECT max(position) / 2 FROM events)"
SWAP = """
    DO $$ DECLARE middle bigint := (SELECT max(position) / 2 FROM events); BEGIN
        UPDATE {0} SET position = -1 WHERE position = middle;
        UPDATE {0} SET position = middle WHERE position = middle + 1;
        UPDATE {0} SET position = middle + 1 WHERE position = -1;
    END $$
"""
CUT = """
    DELETE FROM contracts WHERE position > {0}; DELETE FROM tiles WHERE (number + 1) * 256 > {0};
    DELETE FROM payloads WHERE position > {0}; DELETE FROM events WHERE position > {0}; DELETE FROM batches WHERE last_position > {0}
"""
LAST_BATCH_BUT_ONE = "(SELECT last_position FROM batches ORDER BY last_position DESC OFFSET 1 LIMIT 1)"
# What is done, what `verify` says of it, and the checks of verify.py that it fails under the checkpoint signed before; none where the
# service's own code makes no bundle of it any more.
ATTACKS: Mapping[str, tuple[tuple[str, ...], str, set[str] | None]] = {
    "a middle event dropped": ((f"DELETE FROM events WHERE position = {MIDDLE}",), "position", {"order", "tree"}),
    "a middle event dropped with its body": (
        (f"DELETE FROM payloads WHERE position = {MIDDLE}", f"DELETE FROM events WHERE position = {MIDDLE}"),
        "position",
        {"order", "tree"},
    ),
    "a body dropped": ((f"DELETE FROM payloads WHERE position = {MIDDLE}",), UNEXPLAINED, None),
    "two events swapped": ((SWAP.format("events"),), "position", {"order", "tree", "bodies"}),
    "two bodies swapped": ((SWAP.format("payloads"),), "the body is not the one", {"bodies"}),
    "two events swapped with their bodies": ((SWAP.format("events"), SWAP.format("payloads")), "position", {"order", "tree"}),
    "an event inserted": (
        (
            "UPDATE batches SET last_position = last_position + 1 WHERE last_position = (SELECT max(last_position) FROM batches)",
            "INSERT INTO payloads SELECT ledger_id, position + 1, body FROM payloads ORDER BY position DESC LIMIT 1",
            """INSERT INTO events SELECT ledger_id, position + 1, contract_id, revision + 1, gen_random_uuid(), event_type, recorded_at,
               header, event_hash FROM events ORDER BY position DESC LIMIT 1""",
        ),
        "position",
        set(),
    ),
    "the tail cut": (
        (CUT.format(LAST_BATCH_BUT_ONE.replace("batches", "kept_batches")),),
        "it was signed, and the log has",
        None,
    ),
    "a tile changed": (("UPDATE tiles SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 1)",), "tile 0/0", set()),
    "another root signed for": (
        ("UPDATE checkpoints SET root = sha256('')",),
        "its root is not that of the tree of so many events",
        set(),
    ),
    "another note": (("UPDATE checkpoints SET note = replace(note, 'Asia/Seoul', 'UTC')",), "its note", set()),
    "another key served": (("UPDATE signing_keys SET public_key = sha256('')",), "no key of the deployment has signed it", set()),
    "a row of a contract changed": (
        ("""UPDATE contracts SET state = replace(state, '"status":"', '"status":"x')""",),
        "contract",
        set(),
    ),
    "sealed values changed": (
        ("UPDATE payloads SET sealed = replace(encode(sealed, 'escape'), '918273645546', '918273645547')::bytea WHERE sealed IS NOT NULL",),
        "the sealed value or salt",
        {"sealed"},
    ),
    "sealed values planted before those recorded": (
        (
            """UPDATE payloads SET sealed = ('[' || btrim(replace(encode(sealed, 'escape'), '918273645546', '1'), '[]') || ','
               || substr(encode(sealed, 'escape'), 2))::bytea WHERE sealed IS NOT NULL""",
        ),
        "one path is sealed twice",
        {"sealed"},
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_found_and_named_by_verify_and_by_the_auditors_own_program(attacked: Attacked, tmp_path: Path, attack: str) -> None:
    statements, words, failed = ATTACKS[attack]
    with damaged(attacked, *statements):
        found = attacked.difference()
        assert found is not None
        assert words in str(found), found
        said = attacked.bundle(tmp_path, attacked.note)
        if failed is None:
            assert said is None
        else:
            assert said is not None
            assert said.of("invalid") >= failed, said.output
            assert (said.status == 0) is (not failed), said.output


def test_an_older_dump_is_found_by_what_is_kept(attacked: Attacked, tmp_path: Path) -> None:
    """Sound in itself, with its own last checkpoint signed: as if what came after had never been."""
    cut = CUT.format(LAST_BATCH_BUT_ONE.replace("batches", "kept_batches"))
    states = """
        DELETE FROM contracts WHERE contract_id NOT IN (SELECT contract_id FROM events);
        DELETE FROM deliveries WHERE contract_id NOT IN (SELECT contract_id FROM events); DELETE FROM checkpoints
    """
    with damaged(attacked, cut, states):
        with open_connection(attacked.url) as connection:
            found = Outside(str(attacked.kept)).difference(connection, attacked.url, "main")
        assert found is not None
        assert f"events, and the checkpoint kept is one of {attacked.size}" in found.sentence
        said = attacked.bundle(tmp_path, None, *attacked.kept_by_auditor(tmp_path))
        assert said is not None
        assert (said.status, said.of("indeterminate")) == (2, {"consistency"}), said.output
        assert "the log's tail was cut" in said.checks["consistency"][1]


def test_a_bundle_that_another_key_signed_is_not_taken(attacked: Attacked, tmp_path: Path) -> None:
    _, written = made(attacked.url, "main", Operator(), Wanted(sealed=True))
    said = verified(tmp_path, written, *KEY)
    assert said.of("invalid") == {"signature"}, said.output


def test_what_was_committed_here_and_is_lost_is_found_by_the_kept_head(attacked: Attacked, tmp_path: Path) -> None:
    keep_head(tmp_path, attacked.ledger_id, Head(attacked.size + 3, "ab" * 32))
    with open_connection(attacked.url) as connection:
        found = Outside(None, tmp_path).difference(connection, attacked.url, "main")
    assert found is not None
    assert found.where == f"position {attacked.size + 3}"
