"""An event as a CloudEvent (CNCF CloudEvents 1.0, JSON format, structured mode)."""

from typing import Any

import msgspec

from service.feed.shown import Event

MEDIA_TYPE = "application/cloudevents+json"


def cloud_event(event: Event, ledger: str) -> dict[str, Any]:
    """The CloudEvent of an event of a ledger, to be written as JSON; `data` is the event as it is read, so that nothing is lost.

    `source` is a reference that is resolved against the service's address. Positions are text, since a CloudEvent's integers end at
    2^31 - 1; `sequence` is that of the extension of this name, in which texts are compared: it has leading zeros.
    """
    made: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": f"/v1/ledgers/{ledger}",
        "type": event.event_type,
        "subject": event.contract_id,
        "time": event.recorded_at,
        "datacontenttype": "application/json",
        "dataschema": f"urn:contract-ledger:events:{event.event_type}.v{event.schema_version}",
        "ledger": ledger,
        "sequence": f"{event.position:019}",
        "cursor": event.cursor,
    }
    if event.correlation_id is not None:
        made["correlationid"] = event.correlation_id
    if event.causation_id is not None:
        made["causationid"] = event.causation_id
    made["data"] = msgspec.to_builtins(event)
    return made
