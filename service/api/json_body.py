"""Reading a request body strictly: RFC 8259 JSON, as narrow as RFC 7493 (I-JSON) asks and a little narrower.

The rules live in `_Scanner`, which can say what is wrong and where. It is slow, so a plain body never meets
it: `_read_plain` parses in C and answers only where it is sure that the scanner would find nothing.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeAlias, cast

import msgspec
import orjson

from service.domain.faults import MAX_LABEL

MAX_DEPTH: Final = 32
"""Objects and arrays within one another; the body itself is the first."""
MAX_INTEGER: Final = 2**53 - 1
"""RFC 7493 section 2.2: beyond it, readers that keep numbers as doubles see another number than was sent."""
MAX_EXPONENT: Final = 308
"""The largest power of ten a double can hold."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a body, and where: `pointer` is an RFC 6901 JSON pointer, "" for the whole.

    `malformed` says that the body isn't JSON at all by RFC 8259; otherwise it is JSON that is refused here.
    """

    pointer: str
    detail: str
    malformed: bool


class JsonFault(Exception):
    """The body isn't JSON, or not such as this service reads."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


def read_object(body: bytes) -> dict[str, object]:
    """The object that `body` holds; raises JsonFault where RFC 8259, 7493 or a limit above forbids it."""
    plain = _read_plain(body)
    if plain is not None:
        return plain
    # Bytes that aren't UTF-8 become lone surrogates, which valid UTF-8 never yields: they can be pointed at.
    text = body.decode("utf-8", "surrogateescape")
    fault = _Scanner(text).fault()
    if fault is not None:
        raise JsonFault(fault)
    return cast(dict[str, object], json.loads(text))


# The fast way


def _read_plain(body: bytes) -> dict[str, object] | None:
    """The object in `body`, or None where it may hold anything that the scanner refuses."""
    try:
        value = _decode(body)
        written = orjson.dumps(value, None, orjson.OPT_STRICT_INTEGER)
    except (ValueError, RecursionError, orjson.JSONEncodeError):
        return None
    # Parsing drops a duplicate member, and a colon with it: written again, the value has fewer than the body.
    if written.count(b":") != body.count(b":"):
        return None
    # Words like "annulled" are common; null itself follows a mark, since nothing is written with spaces.
    if b"null" in written and (b":null" in written or b",null" in written or b"[null" in written):
        return None
    # An escaped colon would make up for one that was dropped with a duplicate.
    if b"\\" in body and (b"\\u0000" in body or b"\\u003" in body):
        return None
    if written.count(b"{") + written.count(b"[") > MAX_DEPTH and _is_too_deep(value):
        return None
    return value


def _is_too_deep(value: dict[str, object]) -> bool:
    level: list[dict[str, object] | list[object]] = [value]
    for _ in range(MAX_DEPTH):
        values = [child for parent in level for child in (parent.values() if type(parent) is dict else parent)]
        level = [child for child in values if type(child) is dict or type(child) is list]
    return bool(level)


def _read_float(literal: str) -> float:
    if _number_flaw(literal):
        raise ValueError(literal)
    return float(literal)


_decode = msgspec.json.Decoder(dict[str, object], float_hook=_read_float).decode


# The careful way

# No two branches can begin alike and no quantifier gives back what it took: matching takes linear time.
_PLAIN = r'[^"\\\x00-\x1f\ud800-\udfff]*+'
_SPACE = r"[ \t\n\r]*+"
_STRING_START = rf'"{_PLAIN}(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{{4}}){_PLAIN})*+'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_LEXEME = re.compile(rf'{_SPACE}({_STRING_START}"|{_NUMBER}|true|false|null|[]{{}}:,[]|\Z)|{_SPACE}[^ \t\n\r]')
_OPENED_STRING = re.compile(_STRING_START)
_MARKS = frozenset(("", "{", "}", "[", "]", ":", ","))
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_UTF_8 = "the bytes are not UTF-8"
_FOREIGN = (
    (re.compile(r"[+-]?(?:nan|inf(?:inity)?)\b", re.IGNORECASE), "NaN and Infinity are not JSON numbers"),
    (re.compile(r"[+-]|\.[0-9]"), 'a JSON number begins with a digit, or with "-" and a digit'),
    (re.compile(r"'"), "JSON strings are written in double quotes"),
    (re.compile(r"//|/\*|#"), "JSON has no comments"),
    (re.compile(r"True|False|None|undefined"), "JSON has only true, false and null, in lower case"),
    (re.compile("\ufeff"), "a byte order mark is not allowed"),
    (_SURROGATE, _NOT_UTF_8),
)

# A step takes the next lexeme ("" at the end of the text) and answers with the step for the one after it.
_Step: TypeAlias = "Callable[[str], _Step]"


@dataclass(slots=True)
class _Open:
    """An object or array not closed yet; `names` is None in an array, `label` where no pointer can go on."""

    names: set[str] | None
    label: str | None = None
    index: int = 0

    def place(self) -> str | None:
        return self.label if self.names is not None else str(self.index)


@dataclass(slots=True)
class _Scanner:
    """Finds the first offence in document order, without recursion, in one pass.

    That the body isn't JSON at all goes before anything refused in it, so that `Fault.malformed` is to be
    relied on. Only nesting deeper than MAX_DEPTH ends the reading at once: RFC 8259 section 9 allows that.
    """

    text: str
    at: int = 0
    opened: list[_Open] = field(default_factory=list)
    refusal: Fault | None = None

    def fault(self) -> Fault | None:
        try:
            self._read()
        except JsonFault as found:
            return found.fault
        return self.refusal

    def _read(self) -> None:
        step: _Step = self._top
        for match in _LEXEME.finditer(self.text):
            self.at = match.end()
            lexeme = match[1]
            if lexeme is None:
                self._unreadable()
            step = step(lexeme)
            if not lexeme:
                return

    def _top(self, lexeme: str) -> _Step:
        if not lexeme:
            self._malformed("The body is empty; send a JSON object", self.at)
        if lexeme != "{":
            self._refuse("The body must be a JSON object.")
        return self._value(lexeme)

    def _value(self, lexeme: str) -> _Step:
        if lexeme in _MARKS:
            return self._open(lexeme)
        # What most values are is let through here without another call: this is the scanner's inner loop.
        if not (lexeme[0] == '"' and "\\" not in lexeme) and not (len(lexeme) < 16 and lexeme.isdigit()):
            flaw = _scalar_flaw(lexeme)
            if flaw:
                self._refuse(flaw)
        return self._separator if self.opened else self._nothing_more

    def _open(self, lexeme: str) -> _Step:
        if lexeme not in ("{", "["):
            self._unexpected("a value", lexeme)
        if len(self.opened) == MAX_DEPTH:
            self._refuse(f"Objects and arrays may be nested {MAX_DEPTH} deep, not deeper.")
            assert self.refusal is not None
            raise JsonFault(self.refusal)
        is_object = lexeme == "{"
        self.opened.append(_Open(set() if is_object else None))
        return self._first_member if is_object else self._first_item

    def _close(self) -> _Step:
        self.opened.pop()
        return self._separator if self.opened else self._nothing_more

    def _first_item(self, lexeme: str) -> _Step:
        return self._close() if lexeme == "]" else self._value(lexeme)

    def _first_member(self, lexeme: str) -> _Step:
        return self._close() if lexeme == "}" else self._name(lexeme)

    def _name(self, lexeme: str) -> _Step:
        around = self.opened[-1]
        assert around.names is not None
        around.label = None
        if not lexeme.startswith('"'):
            self._unexpected("a member name in double quotes", lexeme)
        name = _unescaped(lexeme)
        flaw = _string_flaw(name) if "\\" in lexeme else None
        if flaw:
            self._refuse(flaw)
        elif len(name) <= MAX_LABEL:
            around.label = name
        if name in around.names:
            self._refuse("The object has this member twice.")
        around.names.add(name)
        return self._colon

    def _colon(self, lexeme: str) -> _Step:
        if lexeme != ":":
            self._unexpected('":" after the member name', lexeme)
        return self._value

    def _separator(self, lexeme: str) -> _Step:
        if lexeme != ",":
            return self._closing(lexeme)
        around = self.opened[-1]
        if around.names is not None:
            return self._name
        around.index += 1
        return self._value

    def _closing(self, lexeme: str) -> _Step:
        mark = "]" if self.opened[-1].names is None else "}"
        if lexeme != mark:
            self._unexpected(f'"," or "{mark}"', lexeme)
        return self._close()

    def _nothing_more(self, lexeme: str) -> _Step:
        if lexeme:
            self._unexpected("nothing after the JSON value", lexeme)
        return self._nothing_more

    def _refuse(self, detail: str) -> None:
        # Reading goes on: the body may yet turn out not to be JSON.
        if self.refusal is None:
            self.refusal = Fault(self._pointer(), detail, malformed=False)

    def _unexpected(self, wanted: str, lexeme: str) -> NoReturn:
        self._malformed(f"Expected {wanted}, found {_described(lexeme)}", self.at - len(lexeme))

    def _unreadable(self) -> NoReturn:
        """Nothing in RFC 8259 is written like what begins with the character just before `at`."""
        at = self.at - 1
        opened_string = _OPENED_STRING.match(self.text, at)
        if opened_string is None:
            self._malformed(_foreign(self.text, at), at)
        self._malformed(_broken_string(self.text, opened_string.end()), opened_string.end())

    def _malformed(self, sentence: str, at: int) -> NoReturn:
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        raise JsonFault(Fault(self._pointer(), f"{sentence} (line {line}, column {column}).", malformed=True))

    def _pointer(self) -> str:
        """The last place that was reached, by RFC 6901, as far down as the names on the way fit into a pointer."""
        pointer = ""
        for around in self.opened:
            place = around.place()
            if place is None:
                break
            pointer += "/" + place.replace("~", "~0").replace("/", "~1")
        return pointer


def _described(lexeme: str) -> str:
    if not lexeme:
        return "the end of the body"
    if lexeme.startswith('"'):
        return "a string"
    return "a number" if lexeme[-1].isdigit() else f'"{lexeme}"'


def _scalar_flaw(lexeme: str) -> str | None:
    if lexeme.startswith('"'):
        return _string_flaw(_unescaped(lexeme))
    if lexeme == "null":
        return "null is never accepted; leave the member out."
    return None if lexeme in ("true", "false") else _number_flaw(lexeme)


def _unescaped(lexeme: str) -> str:
    # Python's own reader joins surrogate pairs; most strings have no escape and don't need it.
    return cast(str, json.loads(lexeme)) if "\\" in lexeme else lexeme[1:-1]


def _string_flaw(string: str) -> str | None:
    """RFC 7493 section 2.1 forbids lone surrogates; Postgres can't store U+0000 in text."""
    if "\0" in string:
        return "A string must not contain U+0000."
    if not string.isascii() and _SURROGATE.search(string):
        return "A string must not contain half of a surrogate pair."
    return None


def _number_flaw(literal: str) -> str | None:
    """RFC 7493 section 2.2: a number must mean the same to a reader that keeps it as a double."""
    if literal.removeprefix("-").isdigit():
        # The length first, since Python refuses to read an integer of thousands of digits.
        if len(literal) > len(str(-MAX_INTEGER)) or abs(int(literal)) > MAX_INTEGER:
            return f"An integer must lie within ±{MAX_INTEGER} (2^53 - 1); send a larger one as a string."
        return None
    exponent = literal.lower().partition("e")[2].lstrip("+-0") or "0"
    if len(exponent) > len(str(MAX_EXPONENT)) or int(exponent) > MAX_EXPONENT or math.isinf(float(literal)):
        return f"A number must fit a double, its exponent within ±{MAX_EXPONENT}; or send it as a string."
    return None


def _foreign(text: str, at: int) -> str:
    """A sentence about what begins at `at`, outside a string."""
    for pattern, sentence in _FOREIGN:
        if pattern.match(text, at):
            return f"Not JSON: {sentence}"
    return f"Not JSON: what begins with U+{ord(text[at]):04X} can't be read"


def _broken_string(text: str, at: int) -> str:
    """A sentence about the character at `at`, where a string can't go on."""
    if at == len(text):
        return "The body ends within a string"
    if text[at] == "\\":
        return "A string has an escape that JSON does not know"
    if _SURROGATE.match(text, at):
        return f"Not JSON: {_NOT_UTF_8}"
    return f"A string must not contain the control character U+{ord(text[at]):04X} unescaped"
