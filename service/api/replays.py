"""Replays over HTTP: a whole ledger verified, rebuilt, or told as of a past time, while the caller goes on with something else."""

import base64
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, TypeAdapter, ValidationError

from service.api import answers, audit_answers
from service.api.contracts import idempotency_key
from service.api.envelope import read_body
from service.api.imports import MEDIA_TYPE
from service.api.operations import Call, Documented, QueryModel, head_of_stream, json_response, route
from service.api.pages import MAX_COUNT, PageQuery, counted, cursor_in, page_headers, place_in
from service.audit import runs
from service.audit.runs import BOOK, RUNNING, Run, Wish
from service.domain.dates import BusinessDate
from service.domain.events import STRICT
from service.domain.faults import refusal
from service.errors import (
    BodyTooLarge,
    BooksBusy,
    HistoryForked,
    KeyRequired,
    KeyReused,
    Malformed,
    MemberFault,
    NotSigned,
    Refused,
    ReplayEnded,
    ReplayNotFound,
    ReplayRuns,
    ReplayUnfinished,
    StoreUnusable,
    TooManyReplays,
    TreeUnknown,
    Unavailable,
    UnsupportedMediaType,
)
from service.log.checkpoint import Checkpoint
from service.log.header import canonical
from service.log.ledger import instant
from service.log.notes import Note
from service.log.proofs import consistency

REPLAYS = "/v1/ledgers/{ledger}/replays"
REPLAY = REPLAYS + "/{replay_id}"
_RIGHTS = ("audit:read", "ledger:admin")
_ID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

router = APIRouter()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReplayRequest:
    """What is to be replayed. The times are those of a book: what the ledger knew at a position or an instant, of a day."""

    __pydantic_config__ = STRICT

    kind: Annotated[
        Literal["verify", "rebuild", "book"],
        Field(
            description="`verify` compares the log with itself and with what is made from it; `rebuild` makes the current states anew; "
            "`book` tells every contract as it was believed to be."
        ),
    ]
    known_position: Annotated[
        int | None, Field(strict=True, ge=1, le=2**53, description="As the ledger knew it at this position; its head if not said.")
    ] = None
    known_at: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$",
            description="As the ledger knew it at this instant, in place of a position.",
            examples=["2026-11-22T09:30:00.123456Z"],
        ),
    ] = None
    effective_on: BusinessDate | None = None
    """The day that the contracts are told for; today in the ledger's zone if not said."""


_validate = TypeAdapter(StartReplayRequest).validator.validate_python


class ReplaysQuery(PageQuery):
    kind: Annotated[Literal["verify", "rebuild", "book", "reconcile"] | None, Field(description="Only replays of this kind.")] = None


async def _start_replay(call: Call) -> Response:
    call.query(QueryModel)
    key = idempotency_key(call)
    body = await read_body(call.request)
    try:
        wanted: StartReplayRequest = _validate(body)
    except ValidationError as error:
        raise refusal(error) from None
    call.principal.require("ledger:admin" if wanted.kind == runs.REBUILD else "audit:read", call.ledger.ledger_id)
    position, day = await _times(call, wanted)
    database = call.services.reader.database
    wish = Wish(
        kind=wanted.kind,
        known_position=position,
        effective_on=day,
        requested_by=call.principal.principal_id,
        key=key,
        canonical=canonical(body),
    )
    run, replayed = await runs.ask(database, call.ledger, wish)
    call.request.app.state.replaying.wake()
    headers = {"Location": f"/v1/ledgers/{call.ledger.name}/replays/{run.replay_id}"}
    return json_response(_answer(run), 202, headers | ({"Idempotent-Replayed": "true"} if replayed else {}))


async def _times(call: Call, wanted: StartReplayRequest) -> tuple[int | None, date | None]:
    """The position and the day that a book is of; none for the other kinds. Refused where they say what cannot be."""
    if wanted.kind != BOOK:
        for name in ("known_position", "known_at", "effective_on"):
            if getattr(wanted, name) is not None:
                raise _fault(name, f"a {wanted.kind} is of the whole log as it is; only a book is of a time")
        return None, None
    if wanted.known_position is not None and wanted.known_at is not None:
        raise _fault("known_at", "known_position and known_at exclude one another")
    head, _, today = await call.services.reader.head(call.ledger)
    day = today if wanted.effective_on is None else _day(wanted.effective_on)
    if wanted.known_at is not None:
        position = await call.services.reader.position_at(call.ledger, _instant(wanted.known_at))
        if position is None:
            raise _fault("known_at", "the instant is in the future")
        return position, day
    if wanted.known_position is not None and wanted.known_position > head:
        raise _fault("known_position", f"the ledger has {head} events so far")
    return wanted.known_position or head, day


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _fault("effective_on", "not a day, such as 2023-07-01") from None


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise _fault("known_at", "there is no such instant") from None


def _fault(member: str, detail: str) -> Refused:
    return Refused(f"/{member}: {detail}.", (MemberFault(f"/{member}", detail),))


async def _get_replay(call: Call) -> Response:
    call.query(QueryModel)
    database, replay_id = call.services.reader.database, call.id_in_path("replay", ReplayNotFound)
    run = await runs.find(database, call.ledger, replay_id)
    if run.head is not None and run.checkpoint is None:
        # Where nothing can be signed now, the replay is told all the same.
        with suppress(NotSigned, StoreUnusable, HistoryForked, TreeUnknown):
            await call.services.signing.covering(call.ledger, call.epoch, run.head)
            run = await runs.find(database, call.ledger, replay_id)
    answer = _answer(run)
    if answer.head is not None and (size := answer.head.checkpoint_size) is not None and size > answer.head.position:
        path = await consistency(database, call.ledger.ledger_id, answer.head.position, size)
        answer.head.checkpoint_path = [base64.b64encode(one).decode() for one in path]
    return json_response(answer)


async def _get_book(call: Call) -> Response:
    call.query(QueryModel)
    run = await runs.find(call.services.reader.database, call.ledger, call.id_in_path("replay", ReplayNotFound))
    call.principal.require("audit:read", call.ledger.ledger_id)
    if run.kind != BOOK or run.status != runs.DONE or run.known_position is None or run.effective_on is None:
        raise ReplayUnfinished(f"Replay {run.replay_id} is a {run.kind} and {run.status}: there is a book once a book is done.")
    if call.request.method == "HEAD":
        return head_of_stream(answers.PRIVATE, MEDIA_TYPE)
    pieces = call.request.app.state.books.pieces(call.ledger.name, run.known_position, run.effective_on.isoformat())
    return StreamingResponse(pieces, headers=answers.PRIVATE, media_type=MEDIA_TYPE)


async def _list_replays(call: Call) -> Response:
    query, ledger, database = call.query(ReplaysQuery), call.ledger, call.services.reader.database
    listed = f"replays of {ledger.ledger_id} {call.epoch} {query.kind}"
    before = place_in(listed, query.after, _ID) if query.after else None
    found = await runs.runs_before(database, ledger, before, query.kind, query.limit + 1)
    items = [_answer(run) for run in found[: query.limit]]
    more = cursor_in(listed, items[-1].replay_id) if len(found) > query.limit else None
    count, is_exact = counted(await runs.count_runs(database, ledger, query.kind, MAX_COUNT + 1) if query.count else None)
    page = audit_answers.ReplayPage(items=items, next=more, count=count, count_is_exact=is_exact)
    return json_response(page, 200, page_headers(call.request, more))


async def _cancel_replay(call: Call) -> Response:
    return await _change(call, runs.cancel)


async def _resume_replay(call: Call) -> Response:
    return await _change(call, runs.resume)


async def _change(call: Call, change: Any) -> Response:
    """Cancel or resume: takes the right that asking for such a replay takes."""
    call.query(QueryModel)
    database, replay_id = call.services.reader.database, call.id_in_path("replay", ReplayNotFound)
    run = await runs.find(database, call.ledger, replay_id)
    call.principal.require("ledger:admin" if run.kind == runs.REBUILD else "audit:read", call.ledger.ledger_id)
    changed = await change(database, call.ledger, replay_id)
    call.request.app.state.replaying.wake()
    return json_response(_answer(changed))


def _answer(run: Run) -> audit_answers.Replay:
    rate = int(run.events / run.seconds) if run.events and run.seconds > 0 else None
    left = max(run.total - run.events, 0) / rate if rate and run.status == RUNNING and run.kind != runs.RECONCILE else None
    sound = None
    if run.difference is not None:
        sound = "different"
    elif run.status == runs.DONE:
        sound = "sound"
    return audit_answers.Replay(
        replay_id=run.replay_id,
        kind=run.kind,
        status=run.status,
        created_at=instant(run.created_at),
        started_at=instant(run.started_at) if run.started_at else None,
        ended_at=instant(run.ended_at) if run.ended_at else None,
        requested_by=run.requested_by,
        software_version=run.software_version,
        events_done=run.events,
        events_total=run.total,
        contracts_done=run.contracts,
        erased_events=run.erased or None,
        changed_contracts=run.changed if run.kind == runs.REBUILD else None,
        worked_milliseconds=round(run.seconds * 1_000),
        events_per_second=rate,
        seconds_left=math.ceil(left) if left is not None else None,
        head=_head(run),
        known_position=run.known_position,
        effective_on=run.effective_on.isoformat() if run.effective_on else None,
        verdict=sound,
        difference=_difference(run),
        failure=run.failure,
        book_digest=run.digest.hex() if run.digest else None,
    )


def _difference(run: Run) -> audit_answers.ReplayDifference | None:
    if run.difference is None:
        return None
    return audit_answers.ReplayDifference(where=run.difference_at or "", sentence=run.difference)


def _head(run: Run) -> audit_answers.ReplayHead | None:
    if run.head is None:
        return None
    return audit_answers.ReplayHead(
        position=run.head,
        event_hash=run.head_hash.hex() if run.head_hash else None,
        root=run.head_root.hex() if run.head_root else None,
        checkpoint=run.checkpoint,
        checkpoint_size=Checkpoint.parse(Note.parse(run.checkpoint).text).size if run.checkpoint else None,
    )


route(
    router,
    "POST",
    REPLAYS,
    _RIGHTS,
    Documented(
        operation_id="start_replay",
        tag="audit",
        summary="Have a whole ledger replayed",
        description=(
            "`verify` and `book` take the right audit:read, `rebuild` takes ledger:admin. The answer comes at once; `GET` on the replay "
            "tells how far it is. Of one kind and time one replay waits or runs at a time. A request that is sent again with its "
            "Idempotency-Key starts nothing anew, and is answered with the replay as it stands."
        ),
        body="StartReplayRequest",
        example={"kind": "verify"},
        answers={202: ("The replay, which waits", audit_answers.Replay)},
        problems=(
            Malformed,
            KeyRequired,
            ReplayRuns,
            TooManyReplays,
            BodyTooLarge,
            UnsupportedMediaType,
            Refused,
            KeyReused,
            Unavailable,
        ),
        appends=True,
    ),
    _start_replay,
)
route(
    router,
    "GET",
    REPLAYS,
    _RIGHTS,
    Documented(
        operation_id="list_replays",
        tag="audit",
        summary="The history of replays",
        description="The newest first: those asked for here, those that commands ran, and those by which the service checks itself.",
        query=ReplaysQuery,
        answers={200: ("A page of replays", audit_answers.ReplayPage)},
        problems=(Malformed, Refused, HistoryForked),
        paged=True,
    ),
    _list_replays,
)
route(
    router,
    "GET",
    REPLAY,
    _RIGHTS,
    Documented(
        operation_id="get_replay",
        tag="audit",
        summary="How far a replay is, and what it found",
        description=(
            "`waiting`, `running`, `cancelled`, `failed` or `done`. Once something is found that is not as the log says, `difference` "
            "tells the first place; `verdict` is `sound` or `different`. `failure` says why a replay could not come to an end."
        ),
        answers={200: ("The replay", audit_answers.Replay)},
        problems=(Refused, ReplayNotFound),
    ),
    _get_replay,
)
route(
    router,
    "GET",
    REPLAY + "/book",
    "audit:read",
    Documented(
        operation_id="get_replay_book",
        tag="audit",
        summary="The book that a replay told, one contract a line",
        description=(
            "NDJSON: what the book is of, then each contract in the order of ids {contract_id, revision, state, state_hash, anomalies, "
            "pending}, then how much it holds, with a digest of all lines before and the signed checkpoint that covers it, "
            "once there is one. It is told anew from the log, and those lines are the same as long as nothing of it is erased. A book that "
            "is broken off has no last line."
        ),
        answers={200: ("The book, line by line", bytes)},
        problems=(Refused, ReplayNotFound, ReplayUnfinished, BooksBusy),
    ),
    _get_book,
)
for _word, _handler, _summary, _description in (
    ("cancel", _cancel_replay, "Cancel a replay", "It ends within moments, and can be resumed. Cancelled again, nothing happens."),
    (
        "resume",
        _resume_replay,
        "Resume a replay",
        "One that was cancelled or failed waits again, and goes on after the last contract that it had done.",
    ),
):
    route(
        router,
        "POST",
        f"{REPLAY}/{_word}",
        _RIGHTS,
        Documented(
            operation_id=f"{_word}_replay",
            tag="audit",
            summary=_summary,
            description=_description,
            answers={200: ("The replay", audit_answers.Replay)},
            problems=(Refused, ReplayNotFound, ReplayEnded) + ((ReplayRuns,) if _word == "resume" else ()),
        ),
        _handler,
    )
