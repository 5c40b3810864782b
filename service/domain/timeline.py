"""The times of a contract: what of its events is published by a day and in effect on a day, and the view they make together.

Here too a new event is judged that is not the last of the fold: one of an earlier day, and one that corrects or voids another.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date

import msgspec

from service.domain.contract import carry_on, check_limit, decide, fold, judge, revisions_of, settle, turning_day
from service.domain.corrections import acts_of, check_act, delivery_ids, resolve, spans_of
from service.domain.erasure import ERASED, check_erasure, with_erasures
from service.domain.events import EVENT_TYPES, RecordedEvent, place_in_fold
from service.domain.parts import JsonObject
from service.domain.sealing import with_revealed
from service.domain.state import Anomaly, Contract, ContractState, anomaly
from service.errors import MemberFault, NotAllowedNow, Refused

MAX_UNSETTLING_FOLDS = 16
"""How often a contract is folded to find the corrections that unsettle other events; beyond it they are flagged without."""


class Pending(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An event that is known and takes effect later."""

    revision: int
    event_type: str
    effective_on: str


class Basis(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """An event that the state rests on, and on whose word; as a later revision corrected it, if `corrected_by` names one."""

    revision: int
    position: int
    event_id: str
    event_type: str
    effective_on: str | None = None
    source: JsonObject
    corrected_by: int | None = None


class View(msgspec.Struct, kw_only=True):
    """A contract on a day: its state, and beside it what is flagged, what is still to come, and what the state rests on."""

    state: ContractState
    anomalies: list[Anomaly]
    pending: list[Pending]
    rests_on: list[Basis]
    holds_until: date | None


def basis(event: RecordedEvent) -> Basis:
    return Basis(
        revision=event.revision,
        position=event.position,
        event_id=event.event_id,
        event_type=event.data.event_type,
        effective_on=event.effective_on or None,
        source=event.source,
        corrected_by=event.corrected_by,
    )


def in_order(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """Events as they stand by the corrections and voids among them, with what is revealed laid in place, in the order of the fold."""
    return with_erasures(with_revealed(_as_they_stand(events)))


def _as_they_stand(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    return sorted(resolve(events), key=place_in_fold)


def tell(events: Iterable[RecordedEvent], effective_on: date, published_by: date | None = None) -> View:
    """The contract effective on a day, from events in any order, of those published by a day if one is given."""
    known = [event for event in events if published_by is None or event.published_by <= published_by]
    standing = _as_they_stand(known)
    told = with_erasures(with_revealed(standing))
    in_effect = [event for event in told if event.day <= effective_on]
    later = told[len(in_effect) :]
    contract = fold(in_effect)
    whole = carry_on(contract, later) if later else contract
    _flag_unsettled(whole, known)
    return view(contract, whole, [basis(event) for event in standing if event.day <= effective_on], later, effective_on)


def whole_of(events: Sequence[RecordedEvent]) -> Contract:
    """Everything known of a contract, of all days."""
    whole = fold(in_order(events))
    _flag_unsettled(whole, events)
    return whole


def _flag_unsettled(whole: Contract, known: Sequence[RecordedEvent]) -> None:
    """Flag the events that fitted when a correction or a void was recorded, and have not fitted since."""
    acts = acts_of(known)
    own = {act.revision for act in acts}
    misfits = {revision: sentence for revision, sentence in _misfits(whole).items() if revision not in own} if acts else {}
    if not misfits:
        return
    told: dict[int, dict[int, str]] = {}

    def misfits_at(upto: int) -> dict[int, str]:
        if upto not in told:
            told[upto] = _misfits(fold(in_order([event for event in known if event.revision <= upto])))
        return told[upto]

    flagged = []
    for revision in _perhaps_unsettled(misfits, acts, known):
        since = [act.revision for act in acts if act.revision > revision]
        if len(told) < MAX_UNSETTLING_FOLDS and (act := _unsettling(revision, since, misfits_at)):
            sentence = f"{misfits[revision].removesuffix('.')}, since revision {act} corrected or voided another"
            whole.anomalies = [other for other in whole.anomalies if other.anomaly_id != f"no-longer-fits.{revision}"]
            flagged.append(anomaly("correction-unsettles", [revision, act], sentence))
    # In front, where they stay when the next event of the fold flags what it meets.
    whole.anomalies = flagged + whole.anomalies


def _perhaps_unsettled(misfits: Iterable[int], acts: Sequence[RecordedEvent], known: Sequence[RecordedEvent]) -> list[int]:
    """The events to look at closely: those that would fit if nothing were corrected, and those recorded between two acts on one event.

    One fold sorts out the others, which a fold at each act would find to fit no more for another reason.
    """
    as_recorded = [event for event in known if not event.data.acts and event.revision < acts[-1].revision]
    unfit = _misfits(fold(with_revealed(sorted(as_recorded, key=place_in_fold))))
    spans = spans_of(acts)
    return [revision for revision in misfits if revision not in unfit or any(first < revision < last for first, last in spans)]


def _unsettling(revision: int, acts: Sequence[int], misfits_at: Callable[[int], dict[int, str]]) -> int | None:
    """Which of the acts that followed an event left it not fitting, found by halving; None where something else did.

    Each look is at the contract as it was known right after an act, so that nothing recorded later changes what is found.
    """
    if not acts or revision in misfits_at(acts[0] - 1) or revision not in misfits_at(acts[-1]):
        return None
    fits, does_not = 0, len(acts)
    while does_not - fits > 1:
        middle = (fits + does_not) // 2
        fits, does_not = (fits, middle) if revision in misfits_at(acts[middle - 1]) else (middle, does_not)
    act = acts[does_not - 1]
    return None if revision in misfits_at(act - 1) else act


def _misfits(contract: Contract) -> dict[int, str]:
    """The events that do not fit, or have no place, by revision."""
    unplaced = {revision: f"revision {revision} refers to what is not there" for revision in contract.facts.unplaced}
    return unplaced | {flagged.events[0]: flagged.sentence for flagged in contract.anomalies if flagged.rule == "no-longer-fits"}


def admit(event: RecordedEvent, history: Sequence[RecordedEvent], day: date, erased_together: Collection[str] = ()) -> None:
    """Raise NotAllowedNow, or Refused, when a hard rule refuses an event as the next of a contract whose events are `history`.

    `erased_together` are the ids of the events that the request of this one erases.
    """
    if event.data.acts:
        _admit_act(event, history, day)
        return
    if event.data.event_type == ERASED:
        check_limit(event.revision)
        check_erasure(event, history, erased_together)
        return
    ordered = in_order(history)
    before = bisect_left(ordered, place_in_fold(event), key=place_in_fold)
    at = fold(ordered[:before])
    whole = carry_on(at, ordered[before:])
    _flag_unsettled(whole, history)
    sealed = len(event.sealed.digests) if event.sealed else 0
    decide(event.data, whole, at, event.revision, day, effective_on=event.effective_on, sealed=sealed)


def _admit_act(act: RecordedEvent, history: Sequence[RecordedEvent], day: date) -> None:
    """What a correction or a void makes of the original, or brings back, is judged as if it were recorded now, among all others."""
    original = check_act(act, history)
    check_limit(act.revision)
    after = in_order([*history, act])
    changed = next((event for event in after if event.event_id == original.event_id), None)
    if changed is None:
        return
    others = [event for event in after if event is not changed]
    try:
        _check_ids(changed, act, history)
        at = fold(known for known in others if place_in_fold(known) < place_in_fold(changed))
        decide(changed.data, fold(others), at, changed.revision, day, effective_on=changed.effective_on)
    except (NotAllowedNow, Refused) as refusal:
        pointer = "/data/data" if act.data.acts == "corrects" else "/data/target"
        sentence = f"As it would stand, revision {original.revision} is refused: {refusal.detail}"
        if isinstance(refusal, NotAllowedNow):
            raise NotAllowedNow(refusal.rule, sentence, pointer) from None
        raise Refused(
            sentence, tuple(MemberFault(pointer + fault.pointer.removeprefix("/data"), fault.detail) for fault in refusal.errors)
        ) from None


def _check_ids(changed: RecordedEvent, act: RecordedEvent, history: Sequence[RecordedEvent]) -> None:
    """The ids that no state holds: delivery ids are of no other event, and events that are referred to are of the contract."""
    of_original = {event.revision for event in history if event.event_id == changed.event_id or changed.event_id in event.data.event_ids()}
    introduced = delivery_ids(history)
    for delivery_id in changed.data.delivery_ids():
        if introduced.get(delivery_id, act.revision) not in {*of_original, act.revision}:
            raise NotAllowedNow("unique-delivery", f"The contract has a delivery {delivery_id} already; each has an id of its own.")
    known = {event.event_id for event in history}
    for event_id in changed.data.event_ids():
        if event_id not in known:
            raise NotAllowedNow("known-event", f"The contract has no event {event_id}.")


def view(contract: Contract, whole: Contract, known: Sequence[Basis], later: Sequence[RecordedEvent], effective_on: date) -> View:
    """The view of a folded contract; `whole` is folded from `later` events too, `known` covers at least what the state rests on."""
    revisions = revisions_of(contract.facts)
    rests_on = [entry for entry in known if entry.revision in revisions]
    if contract.facts.labels:
        rests_on.sort(key=_after_every_day)
    state = settle(contract.facts, effective_on)
    return View(
        state=state,
        anomalies=judge(whole, effective_on, state.value if whole is contract else None),
        pending=[Pending(revision=event.revision, event_type=event.data.event_type, effective_on=event.effective_on) for event in later],
        rests_on=rests_on,
        holds_until=turning_day(state, whole.facts, (event.effective_on for event in later), effective_on),
    )


def _after_every_day(entry: Basis) -> tuple[bool, int]:
    """What holds on every day stands last, as recorded; the others as they were folded."""
    dayless = EVENT_TYPES[entry.event_type].dayless
    return dayless, entry.revision if dayless else 0
