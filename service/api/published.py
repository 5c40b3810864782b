"""The schemas of event data that were ever published: one file for each version of each type, which never says anything else again.

`published.json` beside them lists each with a digest of what it means, that is without what only describes it. Versions that the code
has moved on from are kept as files alone; whatever was stored by them is read by the upcasts of their type (domain.events).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.api.openapi import event_schemas
from service.domain.contract import EVENT_TYPES
from service.errors import OperatorError

Schemas = Mapping[str, dict[str, Any]]
_MANIFEST = "published.json"
_DESCRIBING = {"description", "examples", "title"}


def schemas_folder() -> Path:
    """What is published: inside an installed package, or beside the sources in a checkout."""
    inside = Path(__file__).parents[1] / "schemas"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "schemas"


def write_schemas(folder: Path) -> None:
    """Write the schemas of all published versions, and list those that are new.

    OperatorError when one that was published differs, and for a folder that cannot be written.
    """
    known, made = schemas_folder(), event_schemas()
    if faults := [*differences(known, made)]:
        raise OperatorError(" ".join(faults))
    try:
        _write(folder, known, made)
    except OSError as error:
        raise OperatorError(f"{error.filename or folder} cannot be written: {error.strerror or error}.") from None


def _write(folder: Path, known: Path, made: Schemas) -> None:
    target = folder / "events"
    target.mkdir(parents=True, exist_ok=True)
    manifest = _manifest(known) | {name: digest(schema) for name, schema in made.items()}
    earlier = {name: json.loads((known / "events" / name).read_bytes()) for name in manifest.keys() - made.keys()}
    for name, schema in {**earlier, **made}.items():
        (target / name).write_text(_text(schema))
    for stale in target.glob("*.json"):
        if stale.name not in manifest:
            stale.unlink()
    (folder / _MANIFEST).write_text(_text(dict(sorted(manifest.items()))))


def differences(folder: Path, made: Schemas) -> Iterator[str]:
    """In sentences, what was published in a folder and is not any more what it was, or is not what the code makes or reads."""
    for name, published in sorted(_manifest(folder).items()):
        file = folder / "events" / name
        event_type, _, version = name.removesuffix(".json").rpartition(".v")
        newest = EVENT_TYPES[event_type].schema_version if event_type in EVENT_TYPES else 0
        if not file.is_file():
            yield f"{name} was published and is gone: what was stored by it is read for ever, so put it back."
        elif digest(json.loads(file.read_bytes())) != published:
            yield f"{name} was published and says something else now: put it back, and give {event_type} another version."
        elif int(version) > newest:
            yield f"{name} was published, and the code does not read it any more: what was stored by it is read for ever."
        elif name in made and digest(made[name]) != published:
            yield f"{event_type} was changed in place, and its version {version} is published: give it another, with an upcast."


def digest(schema: Any) -> str:
    """SHA-256 of what a schema means: of its canonical JSON, without what only describes it."""
    return hashlib.sha256(json.dumps(_meaning(schema), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _meaning(schema: Any, *, named: bool = False) -> Any:
    """A schema without what describes it; where the members are `named` by us, all of them are kept."""
    if isinstance(schema, list):
        return [_meaning(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    kept = schema.items() if named else ((name, member) for name, member in schema.items() if name not in _DESCRIBING)
    return {name: _meaning(member, named=not named and name in ("properties", "$defs")) for name, member in kept}


def _manifest(folder: Path) -> dict[str, str]:
    known: dict[str, str] = json.loads((folder / _MANIFEST).read_bytes())
    return known


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
