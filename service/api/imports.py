"""Imports over HTTP: events by the line (NDJSON), streamed in and recorded in chunks; what became of each line is answered and kept."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.requests import ClientDisconnect

from service.api import answers
from service.api.examples import example
from service.api.import_lines import read_line
from service.api.operations import WHOLE, Call, Documented, Flag, QueryModel, json_response, route
from service.api.pages import MAX_COUNT, PageQuery, counted, cursor_in, page_headers, place_in
from service.domain.erasure import ERASED
from service.errors import (
    Forbidden,
    HistoryForked,
    ImportNotFound,
    ImportOfAnother,
    KeyRequired,
    LedgerError,
    LinesUnsupported,
    Malformed,
    MemberFault,
    Refused,
    Unavailable,
)
from service.log import imports
from service.log.chunks import MAX_CHUNK_LINES
from service.log.imports import Import, LineStanding
from service.log.ledger import instant
from service.log.lines import Fate, Line, LineChunk, told

IMPORTS = "/v1/ledgers/{ledger}/imports"
IMPORT = IMPORTS + "/{import_id}"
MEDIA_TYPE = "application/x-ndjson"
MEDIA_TYPES = frozenset((MEDIA_TYPE, "application/ndjson", "application/jsonl"))
MAX_LINES = 10_000_000
MAX_CHUNK_BYTES = 4_194_304
MOST_TOLD = 100
SLICE_LINES = 8
"""Lines that are read before others have their turn."""
DISCARD_SECONDS = 60
_ID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_UUID = re.compile(_ID)

_EXAMPLE = "".join(
    orjson.dumps({"contract": "K-2024-017", "event_type": event_type, **example(event_type)}).decode() + "\n"
    for event_type in ("contract.signed", "figure.stated")
)

router = APIRouter()


class ImportQuery(QueryModel):
    from_line: Annotated[
        int, Field(ge=1, le=MAX_LINES, description="The number of the first line that is sent; 1 if all of them are."), WHOLE
    ] = 1
    stop_on_refusal: Annotated[
        Flag, Field(description="End at the first line that is refused, whatever it is. Otherwise only its contract is held back.")
    ] = "false"


class ImportLinesQuery(PageQuery):
    fate: Annotated[
        Literal["not_recorded"] | None, Field(description="Only the lines that were refused or held back; all of them if not said.")
    ] = None


async def _import(call: Call) -> Response:
    query = call.query(ImportQuery)
    _check_media_type(call.request)
    services = call.services
    of = await imports.begin(services.reader.database, call.ledger, _import_id(call.request), call.principal.principal_id, query.from_line)
    of.stop_on_refusal = query.stop_on_refusal == "true"
    sending = _Sending(call, of, query.from_line)
    try:
        await sending.run()
    except ClientDisconnect:
        raise Malformed("The client went away before the body was complete; what was recorded of it stays.") from None
    except LedgerError:
        await _discard(call.request)
        raise
    return json_response(await sending.outcome())


def _check_media_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise LinesUnsupported(f"Send the lines as Content-Type: {MEDIA_TYPE}.")
    if "content-encoding" in request.headers:
        raise LinesUnsupported("Send the lines as they are, without Content-Encoding.")


def _import_id(request: Request) -> str:
    """The import's id. KeyRequired without one, Malformed for what is no UUID."""
    sent = request.headers.get("idempotency-key", "").strip().lower()
    if not sent:
        raise KeyRequired(
            "Send Idempotency-Key with a UUID of your own: it is the import's id, under which it can be sent again and nothing is doubled."
        )
    if not _UUID.fullmatch(sent):
        fault = MemberFault("header:Idempotency-Key", "not a UUID")
        raise Malformed("The Idempotency-Key of an import is a UUID: it is the import's id.", (fault,))
    return sent


async def _discard(request: Request) -> None:
    """Read what is still sent, since many a client reads no answer before it has sent everything."""
    with suppress(ClientDisconnect, TimeoutError, RuntimeError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for _ in request.stream():
                pass


async def _pieces(request: Request, most: int) -> AsyncIterator[list[bytes]]:
    """The body's lines, a few at a time, without the marks that end them. One that is too long comes cut off, and is the last."""
    rest = bytearray()
    async for piece in request.stream():
        whole, mark, begun = piece.rpartition(b"\n")
        if mark:
            rest += whole
            yield bytes(rest).split(b"\n")
            rest = bytearray(begun)
        else:
            rest += piece
        if len(rest) > most:
            break
    if rest:
        yield [bytes(rest)]


class _Sending:
    """One sending of an import's lines: read, handed to the writer chunk by chunk, counted."""

    def __init__(self, call: Call, of: Import, from_line: int) -> None:
        self._call = call
        self._of = of
        self._number = from_line - 1
        self._first = from_line
        self._most: int = call.request.app.state.settings.max_body_bytes
        self._lines: list[Line] = []
        self._bytes = 0
        self._flight: tuple[LineChunk, asyncio.Task[None]] | None = None
        self._counts = dict.fromkeys((imports.RECORDED, imports.ALREADY, imports.REFUSED, imports.HELD_BACK), 0)
        self._refusals: list[answers.ImportLine] = []
        self._stopped = False

    async def run(self) -> None:
        """Read and record all lines, or those up to the one at which the import stops."""
        try:
            async for texts in _pieces(self._call.request, self._most):
                await self._read(texts)
                if self._stopped:
                    break
                if self._lines and (self._flight is None or self._flight[1].done()):
                    await self._launch()
            else:
                await self._launch()
            await self._land()
        finally:
            if self._flight is not None:  # what the writer has taken up is decided, whoever is still there to hear of it
                await asyncio.wait([self._flight[1]])
                self._flight[1].exception()
        if self._stopped:
            await _discard(self._call.request)

    async def outcome(self) -> answers.ImportOutcome:
        """What is answered; how it ended is written down before."""
        database, of = self._call.services.reader.database, self._of
        standing = await imports.standing(database, of.ledger, of.import_id)
        status = imports.INCOMPLETE if standing.refused or standing.held_back else imports.COMPLETE
        if self._stopped:
            status = imports.STOPPED
        await imports.end(database, of, status)
        return answers.ImportOutcome(
            import_id=of.import_id,
            status=status,
            lines=sum(self._counts.values()),
            recorded=self._counts[imports.RECORDED],
            already_recorded=self._counts[imports.ALREADY],
            refused=self._counts[imports.REFUSED],
            held_back=self._counts[imports.HELD_BACK],
            last_line=standing.last_line,
            not_recorded=self._refusals,
        )

    async def _read(self, texts: list[bytes]) -> None:
        known: Mapping[int, bytes | None] = {}
        if self._number < self._of.last_line:
            database = self._call.services.reader.database
            known = await imports.known_lines(database, self._of, self._number + 1, self._number + len(texts))
        for text in texts:
            self._number += 1
            if not text or text.isspace():
                continue
            line = read_line(self._of, self._number, text, known, self._most)
            if line.contract_id is None and self._number in known and line.refusal is None:
                self._counts[imports.ALREADY] += 1
                continue
            self._require_right(line)
            await self._add(line, len(text))
            if self._stopped:
                return
            if self._number % SLICE_LINES == 0:
                await asyncio.sleep(0)

    def _require_right(self, line: Line) -> None:
        """Refuse a line whose event takes a right that the caller does not have."""
        if line.new and line.new.fact.event_type == ERASED:
            line.refusal = Refused("An erasure is asked for by itself: what it names is erased where it was recorded, not in a copy.")
            return
        right = line.new.fact.extra_right if line.new else None
        if right is None:
            return
        try:
            self._call.principal.require(right, self._of.ledger.ledger_id)
        except Forbidden as refusal:
            line.refusal = refusal

    async def _add(self, line: Line, size: int) -> None:
        if self._number - self._first >= MAX_LINES:
            line = Line(line.number, refusal=Refused(f"An import has at most {MAX_LINES} lines; send the others as another."))
        self._lines.append(line)
        self._bytes += size
        if line.contract_id is None or len(self._lines) == MAX_CHUNK_LINES or self._bytes > MAX_CHUNK_BYTES:
            await self._launch()
        if line.contract_id is None:
            await self._land()

    async def _launch(self) -> None:
        """Hand the lines that were read to the writer, once it is done with those before; the next are read meanwhile."""
        await self._land()
        if self._stopped or not self._lines:
            return
        chunk = LineChunk(self._of, self._lines)
        self._lines, self._bytes = [], 0
        self._flight = chunk, asyncio.create_task(self._call.services.writers.settle_chunk(self._of.ledger, chunk))

    async def _land(self) -> None:
        """Wait for what the writer has in hand, and count it."""
        if self._flight is None:
            return
        chunk, task = self._flight
        await asyncio.shield(task)
        self._flight = None
        contracts = {line.number: line.contract_id for line in chunk.lines}
        for fate in chunk.fates:
            self._counts[fate.kind] += 1
            if fate.refusal is not None and len(self._refusals) < MOST_TOLD:
                self._refusals.append(_not_recorded(fate, contracts[fate.line]))
        self._stopped = chunk.stopped


def _not_recorded(fate: Fate, contract_id: str | None) -> answers.ImportLine:
    assert fate.refusal is not None
    return answers.ImportLine(line=fate.line, fate=fate.kind, contract_id=contract_id, **told(fate.refusal))  # type: ignore[arg-type]


async def _get_import(call: Call) -> Response:
    call.query(QueryModel)
    import_id = call.id_in_path("import", ImportNotFound)
    found = await imports.standing(call.services.reader.database, call.ledger, import_id)
    return json_response(
        answers.Import(
            import_id=import_id,
            status=found.status,
            recorded=found.recorded,
            refused=found.refused,
            held_back=found.held_back,
            last_line=found.last_line,
            created_at=instant(found.created_at),
        )
    )


async def _list_import_lines(call: Call) -> Response:
    query, import_id, ledger = call.query(ImportLinesQuery), call.id_in_path("import", ImportNotFound), call.ledger
    database = call.services.reader.database
    listed = f"lines of {import_id} in {ledger.ledger_id} {call.epoch} {query.fate}"
    after = int(place_in(listed, query.after, "[1-9][0-9]{0,8}")) if query.after else 0
    standing = await imports.standing(database, ledger, import_id)
    recorded_too = query.fate is None
    found = await imports.lines_after(database, ledger, import_id, after, query.limit + 1, recorded_too=recorded_too)
    more = cursor_in(listed, str(found[query.limit - 1].line)) if len(found) > query.limit else None
    size = standing.refused + standing.held_back + (standing.recorded if recorded_too else 0)
    count, is_exact = counted(min(size, MAX_COUNT + 1) if query.count else None)
    items = [_line_answer(line) for line in found[: query.limit]]
    page = answers.ImportLinePage(items=items, next=more, count=count, count_is_exact=is_exact)
    return json_response(page, 200, page_headers(call.request, more))


def _line_answer(line: LineStanding) -> answers.ImportLine:
    return answers.ImportLine(
        line=line.line,
        fate=line.kind,
        contract_id=line.contract_id,
        event_id=line.event_id,
        position=line.position,
        revision=line.revision,
        code=line.code,
        rule=line.rule,
        pointer=line.pointer,
        detail=line.detail,
    )


route(
    router,
    "POST",
    IMPORTS,
    "contracts:write",
    Documented(
        operation_id="import_events",
        tag="imports",
        summary="Import events, one a line",
        description=(
            "NDJSON: a line is {contract, event_type, effective_on, source, data, ...}, as an export has it; `contract` is a contract_id "
            "or a key of your own. `Idempotency-Key` is a UUID and the import's id: sent again under it, the import goes on after what is "
            "recorded, and no line is recorded twice. A line that is refused holds back those of its contract that follow it; one that "
            "does not say whose it is ends the import. The answer comes at the end; until then `GET` on the import tells how far it is."
        ),
        query=ImportQuery,
        lines=_EXAMPLE,
        answers={200: ("What became of the lines", answers.ImportOutcome)},
        problems=(Malformed, KeyRequired, ImportOfAnother, LinesUnsupported, Refused, Unavailable),
        appends=True,
    ),
    _import,
)
route(
    router,
    "GET",
    IMPORT,
    "contracts:write",
    Documented(
        operation_id="get_import",
        tag="imports",
        summary="How far an import is",
        description=(
            "`open` while lines are sent, or when the sending was broken off; `complete` when all are recorded, `incomplete` when some "
            "were refused or held back, `stopped` when it ended before the last line."
        ),
        answers={200: ("The import", answers.Import)},
        problems=(Refused, ImportNotFound),
    ),
    _get_import,
)
route(
    router,
    "GET",
    IMPORT + "/lines",
    "contracts:write",
    Documented(
        operation_id="list_import_lines",
        tag="imports",
        summary="What became of each line of an import",
        description="By their numbers, empty lines left out: where a line was recorded, or why it was not.",
        query=ImportLinesQuery,
        answers={200: ("A page of lines", answers.ImportLinePage)},
        problems=(Malformed, Refused, ImportNotFound, HistoryForked),
        paged=True,
    ),
    _list_import_lines,
)
