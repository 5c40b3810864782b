"""The reader of request bodies against tables of odd cases, and against Python's own reader."""

import json
import math
import time
from dataclasses import dataclass

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from service.api import json_body
from service.api.json_body import MAX_DEPTH, MAX_INTEGER, Fault, JsonFault, read_object
from service.domain.faults import MAX_LABEL

NUL, LONE_HIGH, LONE_LOW = rb"\u0000", rb"\ud83d", rb"\ude00"


def fault_of(body: bytes) -> Fault:
    with pytest.raises(JsonFault) as caught:
        read_object(body)
    assert str(caught.value) == caught.value.fault.detail
    return caught.value.fault


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


REFUSED: dict[str, list[tuple[bytes, str]]] = {
    "a member twice": [
        (b'{"a":1,"a":1}', "/a"),
        (b'{"a" : 1, "b": {"c":1,"d":2,"c" \n: 3}}', "/b/c"),
        (b'{"a":[{},{"x":":","x":"::"}]}', "/a/1/x"),
        (rb'{"a":1,"\u0061":2}', "/a"),
        (rb'{"a":1,"a":"\u003a"}', "/a"),
        (rb'{"a":1,"a":"\u003A"}', "/a"),
        (rb'{"a":"::","a":"\u003a\u003a\u003a"}', "/a"),
        (b'{"":1,"":2}', "/"),
        (b'{"a/b~c":1,"a/b~c":2}', "/a~1b~0c"),
        ('{"값":1,"값":2}'.encode(), "/값"),
        (rb'{"\ud83d\ude00":1,"' + "😀".encode() + b'":2}', "/😀"),
        (b'{"a":{"b":1},"a":{"b":1}}', "/a"),
    ],
    "null": [
        (b'{"a":null}', "/a"),
        (b'{"a": null }', "/a"),
        (b'{"a":[null]}', "/a/0"),
        (b'{"a":[1,[2, null,3]]}', "/a/1/1"),
        (b'{"a":"null and void","b":{"c":null}}', "/b/c"),
        (b'{"a":[],"b":[{}],"c":[1,2,{"d":null}]}', "/c/2/d"),
    ],
    "U+0000": [
        (b'{"a":"' + NUL + b'"}', "/a"),
        (b'{"a":["x\\\\' + NUL + b'"]}', "/a/0"),
        (b'{"a":{"' + NUL + b'":1}}', "/a"),
    ],
    "half a surrogate pair": [
        (b'{"a":"' + LONE_HIGH + b'"}', "/a"),
        (b'{"a":"' + LONE_LOW + b'"}', "/a"),
        (b'{"a":"' + LONE_LOW + LONE_HIGH + b'"}', "/a"),
        (b'{"a":"' + LONE_HIGH + LONE_HIGH + LONE_LOW + b'"}', "/a"),
        (b'{"a":"x' + LONE_HIGH + b'x"}', "/a"),
        (b'{"a":"' + LONE_HIGH + rb'\\u0041"}', "/a"),
        (b'{"b":[{"' + LONE_HIGH + b'":1}]}', "/b/0"),
    ],
    "an integer that a double can't hold": [
        (b'{"a":9007199254740992}', "/a"),
        (b'{"a":-9007199254740992}', "/a"),
        (b'{"a":[0,18446744073709551615]}', "/a/1"),
        (b'{"a":18446744073709551616}', "/a"),
        (b'{"a":-9223372036854775809}', "/a"),
        (b'{"a":' + b"9" * 5000 + b"}", "/a"),
    ],
    "a number that a double can't hold": [
        (b'{"a":1e400}', "/a"),
        (b'{"a":-1E+400}', "/a"),
        (b'{"a":1e309}', "/a"),
        (b'{"a":10e308}', "/a"),
        (b'{"a":1e-400}', "/a"),
        (b'{"a":0e999999999999999999}', "/a"),
        (b'{"a":[1.5,1.5e' + b"9" * 5000 + b"]}", "/a/1"),
        (b'{"a":' + b"9" * 400 + b".0}", "/a"),
    ],
    "deep nesting": [
        (nested(MAX_DEPTH + 1), "/a" * MAX_DEPTH),
        (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "/a" + "/0" * (MAX_DEPTH - 1)),
        (b'{"a":1,"b":' + nested(MAX_DEPTH) + b"}", "/b" + "/a" * (MAX_DEPTH - 1)),
        (b'{"a":["]]]]]]]",' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"]}", "/a/1" + "/0" * (MAX_DEPTH - 2)),
    ],
    "no object at the top": [
        (b"[]", ""),
        (b'[{"a":1}]', ""),
        (b"null", ""),
        (b" true ", ""),
        (b"false", ""),
        (b"0", ""),
        (b"-0.5e-3", ""),
        (b'"text"', ""),
        (b"[null]", ""),
    ],
}

MALFORMED: dict[str, list[tuple[bytes, str]]] = {
    "empty": [(b"", ""), (b" \t\r\n", "")],
    "byte order mark": [(b"\xef\xbb\xbf{}", ""), (b"\xef\xbb\xbf", ""), (b'\xff\xfe{\x00"\x00', "")],
    "another encoding": [('{"a":1}'.encode("utf-16-le"), ""), ('{"a":1}'.encode("utf-32-be"), "")],
    "invalid UTF-8": [
        (b'{"a":["\xff"]}', "/a/0"),
        (b'{"a":"\xed\xa0\x80"}', "/a"),
        (b'{"a":"\xed\xa0\xbd\xed\xb8\x80"}', "/a"),
        (b'{"a":"\xc0\x80"}', "/a"),
        (b'{"a":"\xf4\x90\x80\x80"}', "/a"),
        (b'{"a":"\xe2\x82"}', "/a"),
        (b'{"\xe9":1}', ""),
        (b'{"a":\xff}', "/a"),
        (b"{}\xff", ""),
        (b"\x80", ""),
    ],
    "raw control character": [
        (b'{"a":"\x00"}', "/a"),
        (b'{"a":"x\ny"}', "/a"),
        (b'{"a":["\t"]}', "/a/0"),
        (b'{"a":"\x1f"}', "/a"),
        (b'{"a\x01":1}', ""),
        (b'{"a":1}\x00', ""),
        (b'{"a":\x0c1}', "/a"),
        (b'{"a":\xc2\xa01}', "/a"),
    ],
    "NaN and Infinity": [
        (b'{"a":NaN}', "/a"),
        (b'{"a":[1,Infinity]}', "/a/1"),
        (b'{"a":-Infinity}', "/a"),
        (b'{"a":-NaN}', "/a"),
        (b'{"a":inf}', "/a"),
    ],
    "numbers written otherwise": [
        (b'{"a":01}', "/a"),
        (b'{"a":-01}', "/a"),
        (b'{"a":1.}', "/a"),
        (b'{"a":1.e1}', "/a"),
        (b'{"a":.5}', "/a"),
        (b'{"a":+1}', "/a"),
        (b'{"a":-}', "/a"),
        (b'{"a":--1}', "/a"),
        (b'{"a":1e}', "/a"),
        (b'{"a":1e+}', "/a"),
        (b'{"a":0x1F}', "/a"),
        (b'{"a":1_000}', "/a"),
        (b'{"a":1,5}', ""),
        ('{"a":１}'.encode(), "/a"),
    ],
    "words written otherwise": [
        (b'{"a":True}', "/a"),
        (b'{"a":None}', "/a"),
        (b'{"a":nul}', "/a"),
        (b'{"a":nullx}', "/a"),
        (b'{"a":truefalse}', "/a"),
        (b'{"a":undefined}', "/a"),
    ],
    "strings written otherwise": [
        (b"{'a':1}", ""),
        (b"{\"a\":'b'}", "/a"),
        (b"{a:1}", ""),
        (b'{"a":b}', "/a"),
        (rb'{"a":"\x41"}', "/a"),
        (rb'{"a":"\'"}', "/a"),
        (rb'{"a":"\u12"}', "/a"),
        (rb'{"a":"\u12g4"}', "/a"),
        (rb'{"a":"\U0041"}', "/a"),
        (b'{"a":"\\"}', "/a"),
        (b'{"a":"\\\n"}', "/a"),
    ],
    "structure": [
        (b"{", ""),
        (b"}", ""),
        (b"]", ""),
        (b":", ""),
        (b",", ""),
        (b'{"a"}', "/a"),
        (b'{"a",1}', "/a"),
        (b'{"a"::1}', "/a"),
        (b'{"a":}', "/a"),
        (b'{"a" 1}', "/a"),
        (b"{:1}", ""),
        (b"{1:1}", ""),
        (b'{null:1,"a":2}', ""),
        (b"{[]:1}", ""),
        (b'{"a":1,}', ""),
        (b'{,"a":1}', ""),
        (b'{"a":1,,"b":2}', ""),
        (b'{"a":1 "b":2}', "/a"),
        (b'{"a":1;"b":2}', "/a"),
        (b'{"a":1]', "/a"),
        (b'{"a":"b":"c"}', "/a"),
        (b'{"x":{"a":[1,]}}', "/x/a/1"),
        (b'{"x":{"a":[,1]}}', "/x/a/0"),
        (b'{"a":[1,,2]}', "/a/1"),
        (b'{"a":[1 2]}', "/a/0"),
        (b'{"a":[1}', "/a/0"),
        (b'{"a":["b":1]}', "/a/0"),
        (b'{"a":[{]}]}', "/a/0"),
        (b"[1,]", "/1"),
    ],
    "truncated": [
        (b'{"a', ""),
        (b'{"a"', "/a"),
        (b'{"a":', "/a"),
        (b'{"a":"', "/a"),
        (b'{"a":"b', "/a"),
        (b'{"a":"b\\', "/a"),
        (b'{"a":tru', "/a"),
        (b'{"a":1', "/a"),
        (b'{"a":1,', ""),
        (b'{"a":{"b":1', "/a/b"),
        (b'{"a":[', "/a/0"),
        (b'{"a":[1', "/a/0"),
        (b'{"a":[1,', "/a/1"),
        (b'{"a":"\xea\xb0', "/a"),
    ],
    "trailing text": [
        (b"{}{}", ""),
        (b'{"a":1}x', ""),
        (b'{"a":1}}', ""),
        (b'{"a":1},', ""),
        (b'{"a":1}\n{"b":2}\n', ""),
        (b"1 2", ""),
        (b"[][", ""),
    ],
    "comments": [(b'{"a":1 // one\n}', "/a"), (b'/* a */{"a":1}', ""), (b'{"a":# one\n1}', "/a")],
}

ACCEPTED = [
    b"{}",
    b" \t\n\r{ \t\n\r} \t\n\r",
    b'{"":""}',
    b'{"a":0,"b":-0,"c":1.5,"d":-1.5E-3,"e":1e308,"f":0.0,"g":1e0000000000000000000001}',
    b'{"a":9007199254740991,"b":-9007199254740991,"c":9007199254740993.0,"d":123456789012345678901.5}',
    b'{"a":true,"b":false,"c":[],"d":{},"e":[[]],"f":[{}]}',
    b'{"a":1,"b":{"a":1,"b":{"a":1}},"A":2}',
    b'{"a":[{"a":1},{"a":1}]}',
    rb'{"a":"\"\\\/\b\f\n\r\t\u0001\u001f\u003a\u003A\u0022\u005c\uFFFF\uFeFf"}',
    rb'{"a":"\ud83d\ude00\uD83D\uDE00","\udbff\udfff":1}',
    rb'{"a":"\\ud800","b":"\\u0000","c":"\\\\u0000"}',
    b'{"a":"\x7f\xc2\x80\xef\xbb\xbf\xef\xbf\xbf\xf4\x8f\xbf\xbf\xe2\x80\xa8"}',
    '{"상품":"니켈","名前":"コバルト","label":"Größe 😀"}'.encode(),
    b'{"a":"annulled","b":"null","c":":null","d":",null,","e":["[null]"],"null":1}',
    b'{"a":"2026-03-01T09:14:55Z","b:c":"::","d":"\\":1"}',
    b'{"a":"1e400 NaN 99999999999999999999999","99999999999999999999999":1}',
    b'{"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[{{{{{{{{{{{{{{{{{{"}',
    b'{"a":[' + b"[],{}," * 100 + b"1]}",
    nested(MAX_DEPTH),
    b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}",
    b'{"' + b"k" * 10_000 + b'":"' + b"v" * 10_000 + b'"}',
]


def rows(table: dict[str, list[tuple[bytes, str]]]) -> list[object]:
    return [
        pytest.param(body, pointer, id=f"{kind} {number}") for kind, cases in table.items() for number, (body, pointer) in enumerate(cases)
    ]


@pytest.mark.parametrize(("body", "pointer"), rows(REFUSED))
def test_json_that_is_refused_is_named_by_a_pointer(body: bytes, pointer: str) -> None:
    fault = fault_of(body)
    assert (fault.pointer, fault.malformed) == (pointer, False)


@pytest.mark.parametrize(("body", "pointer"), rows(MALFORMED))
def test_what_is_not_json_is_malformed_and_named_by_a_pointer(body: bytes, pointer: str) -> None:
    fault = fault_of(body)
    assert (fault.pointer, fault.malformed) == (pointer, True)


@pytest.mark.parametrize("body", ACCEPTED)
def test_json_that_is_accepted_reads_as_python_reads_it(body: bytes) -> None:
    assert repr(read_object(body)) == repr(json.loads(body))
    assert json_body._Scanner(body.decode()).fault() is None


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"a":null}', "null is never accepted; leave the member out."),
        (b'{"a":1,"a":2}', "The object has this member twice."),
        (b"[]", "The body must be a JSON object."),
        (b"", "The body is empty; send a JSON object (line 1, column 1)."),
        (b'{\n  "a": NaN\n}', "Not JSON: NaN and Infinity are not JSON numbers (line 2, column 8)."),
        (b'{"a":1,}', 'Expected a member name in double quotes, found "}" (line 1, column 8).'),
        (b'{"a":1 "b":2}', 'Expected "," or "}", found a string (line 1, column 8).'),
        (b'{"a":01}', 'Expected "," or "}", found a number (line 1, column 7).'),
        (b'{"a":[true false]}', 'Expected "," or "]", found "false" (line 1, column 12).'),
        (b'{"a":[1,', "Expected a value, found the end of the body (line 1, column 9)."),
        (b'{"a":"b', "The body ends within a string (line 1, column 8)."),
        (b'{"a":"b\tc"}', "A string must not contain the control character U+0009 unescaped (line 1, column 8)."),
        (b'{"a":"\xff"}', "Not JSON: the bytes are not UTF-8 (line 1, column 7)."),
        (b"\xef\xbb\xbf{}", "Not JSON: a byte order mark is not allowed (line 1, column 1)."),
        (b"<a/>", "Not JSON: what begins with U+003C can't be read (line 1, column 1)."),
    ],
)
def test_a_fault_says_what_is_wrong_in_a_sentence(body: bytes, detail: str) -> None:
    assert fault_of(body).detail == detail


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"a":null,"b":1,"b":2}', "/a"),
        (b'{"b":1,"b":null,"a":9007199254740992}', "/b"),
        (b'{"a":[9007199254740992,null]}', "/a/0"),
        (b'{"a":null,"b":' + nested(MAX_DEPTH) + b"}", "/a"),
        (b'{"' + NUL + b'":null}', ""),
    ],
)
def test_the_first_refusal_in_the_order_of_the_document_is_reported(body: bytes, pointer: str) -> None:
    assert fault_of(body).pointer == pointer


def test_malformed_goes_before_refused_so_that_a_refused_body_is_json() -> None:
    assert fault_of(b'{"a":null,"b":1,"b":NaN}') == Fault(
        "/b", "Not JSON: NaN and Infinity are not JSON numbers (line 1, column 21).", malformed=True
    )


def test_nesting_too_deep_ends_the_reading_at_once() -> None:
    assert fault_of(b'{"a":' * (MAX_DEPTH + 1) + b"NaN").malformed is False


def test_a_pointer_stops_above_a_member_with_a_very_long_name() -> None:
    fits, long = b"k" * MAX_LABEL, b"k" * (MAX_LABEL + 1)
    assert fault_of(b'{"a":{"' + fits + b'":[null]}}').pointer == f"/a/{fits.decode()}/0"
    assert fault_of(b'{"a":{"' + long + b'":[null]}}').pointer == "/a"


def test_a_pointer_never_holds_what_utf_8_cannot_encode() -> None:
    assert fault_of(b'{"a":{"' + LONE_HIGH + b'":[NaN]}}').pointer == "/a"


MIB = 1 << 20
HOSTILE = {
    "opening brackets": b"[" * MIB,
    "nested objects": b'{"a":' * (MIB // 5),
    "nested objects in one member": b'{"a":[' * (MIB // 6),
    "digits": b'{"a":' + b"9" * MIB + b"}",
    "digits of a fraction": b'{"a":' + b"1" * MIB + b".5}",
    "digits of an exponent": b'{"a":1e' + b"9" * MIB + b"}",
    "quotes": b'"' * MIB,
    "empty strings": b'{"a":[' + b'"",' * (MIB // 3),
    "members": b"{" + b",".join(b'"%x":0' % number for number in range(MIB // 9)) + b',"0":0}',
    "one member again and again": b"{" + b'"a":0,' * (MIB // 6) + b'"a":0}',
    "zeros": b'{"a":[' + b"0," * (MIB // 2) + b"null]}",
    "an unclosed string": b'{"a":"' + b"a" * MIB,
    "an unclosed string of escapes": b'{"a":"' + rb"\n" * (MIB // 2),
    "backslashes": b'{"a":"' + b"\\" * (MIB - 1),
    "escaped characters": b'{"a":"' + rb"\u0041" * (MIB // 6) + rb'\ud800"}',
    "spaces": b"{" + b" " * MIB,
    "lines": b"\n" * MIB + b"x",
    "bytes that are not UTF-8": b'{"a":"' + b"\xff" * MIB,
    "a name": b'{"' + b"/" * MIB + b'":null}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_mebibyte_is_refused_in_time_and_in_few_words(body: bytes) -> None:
    began = time.perf_counter()
    fault = fault_of(body)
    # A second or less on the slowest machine at hand; anything quadratic would take many minutes.
    assert time.perf_counter() - began < 20
    assert len(fault.detail) + len(fault.pointer) < 1000


# The same rules in other words: Python's reader keeps every member, and a recursive walk finds the first offence.


@dataclass(frozen=True)
class Members:
    pairs: list[tuple[str, object]]


@dataclass(frozen=True)
class Number:
    literal: str


class Offence(Exception):
    pass


def expected(body: bytes) -> str | None:
    """The pointer of the first refusal, None for none; ValueError for what isn't JSON."""

    def not_json(name: str) -> None:
        raise ValueError(name)

    tree = json.loads(body.decode(), object_pairs_hook=Members, parse_int=Number, parse_float=Number, parse_constant=not_json)
    try:
        check_top(tree)
    except Offence as offence:
        return str(offence)
    return None


def check_top(tree: object) -> None:
    if not isinstance(tree, Members):
        raise Offence("")
    check(tree, "", 1)


def check(value: object, pointer: str, depth: int) -> None:
    match value:
        case Members() | list() if depth > MAX_DEPTH:
            raise Offence(pointer)
        case Members(pairs):
            check_members(pairs, pointer, depth)
        case list():
            for index, item in enumerate(value):
                check(item, f"{pointer}/{index}", depth + 1)
        case None:
            raise Offence(pointer)
        case str() if not is_writable(value):
            raise Offence(pointer)
        case Number(literal) if not is_double(literal):
            raise Offence(pointer)


def check_members(pairs: list[tuple[str, object]], pointer: str, depth: int) -> None:
    names = []
    for name, value in pairs:
        if not is_writable(name):
            raise Offence(pointer)
        place = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
        if name in names:
            raise Offence(place)
        names.append(name)
        check(value, place, depth + 1)


def is_writable(string: str) -> bool:
    return all(character != "\0" and not 0xD800 <= ord(character) <= 0xDFFF for character in string)


def is_double(literal: str) -> bool:
    if set(literal) <= set("-0123456789"):
        return len(literal) < 18 and abs(int(literal)) <= MAX_INTEGER
    exponent = float(literal.lower().partition("e")[2] or 0)
    return math.isfinite(float(literal)) and abs(exponent) <= 308


SPACES = st.sampled_from(["", "", "", " ", "\n\t", "\r\n  "])
NAMES = st.sampled_from(['"a"', '"b"', '"c"', '"d"', '""', r'"\u0061"', '"a/b"', '"~"', '"값"', '":"', r'"\""', r'"\u003a"', '"null"'])
SCALARS = st.one_of(
    st.sampled_from(["true", "false", "0", "-0", "1.5", "1e2", '"null"', '":null"', r'"\u003a"', '":"', '"a: b"']),
    st.integers(-(10**16), 10**16).map(str),
    st.text(max_size=6).map(json.dumps),
    st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
SUSPECTS = st.sampled_from(
    [
        "null",
        "NaN",
        "-Infinity",
        "1e400",
        "1e-400",
        "9007199254740992",
        "18446744073709551616",
        "01",
        r'"\u0000"',
        r'"\ud800"',
        r'"\ud83d\ude00"',
        "[" * 40 + "]" * 40,
        '{"x":' * 31 + "[]" + "}" * 31,
    ]
)


def arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda found, space: "[" + space + f"{space},".join(found) + space + "]", st.lists(items, max_size=4), SPACES)


def objects(items: st.SearchStrategy[str], *, unique: bool) -> st.SearchStrategy[str]:
    def written(members: list[tuple[str, str]], space: str) -> str:
        return "{" + f",{space}".join(f"{name}{space}:{space}{value}" for name, value in members) + space + "}"

    members = st.lists(
        st.tuples(NAMES, items),
        max_size=5,
        unique_by=(lambda member: json.loads(member[0])) if unique else None,
    )
    return st.builds(written, members, SPACES)


def texts(scalars: st.SearchStrategy[str], *, unique: bool) -> st.SearchStrategy[str]:
    values = st.recursive(scalars, lambda inner: arrays(inner) | objects(inner, unique=unique), max_leaves=12)
    return objects(values, unique=unique)


CLEAN = texts(SCALARS, unique=True)
MIXED = texts(SCALARS | SCALARS | SCALARS | SUSPECTS, unique=False)
PIECES = st.sampled_from(
    [
        *(bytes([byte]) for byte in b'"\\{}[]:,0-.e/x \n\x00\xff'),
        *(b"", b"null", b"NaN", b"e9", b"\xef\xbb\xbf", b'"a":1,', rb"\u0000", rb"\ud800", rb"\u003a", "값".encode()),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body = draw(MIXED).encode()
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(body)))
        stop = min(len(body), start + draw(st.integers(0, 4)))
        body = body[:start] + draw(PIECES) + body[stop:]
    return body


def verdict(body: bytes) -> tuple[str | None, bool]:
    try:
        read_object(body)
    except JsonFault as found:
        return found.fault.pointer, found.fault.malformed
    return None, False


@given(mutated() | st.binary(max_size=20) | st.text(max_size=20).map(str.encode))
@example(b'{"a":1,"a":"\\u003a"}')
@example(b'{"a":1,"a":{"b":":"}}')
@example(b'{"a":-0,"b":-0.0}')
def test_every_verdict_is_that_of_pythons_reader_and_a_recursive_walk(body: bytes) -> None:
    try:
        pointer = expected(body)
    except ValueError:
        assume(body.count(b"[") + body.count(b"{") <= MAX_DEPTH)
        assert verdict(body)[1]
    else:
        assert verdict(body) == (pointer, False)


@given(mutated() | CLEAN.map(str.encode))
@example(b'{"a":1,"a":"\\u003a"}')
def test_the_fast_way_takes_only_what_the_scanner_takes_and_reads_the_same(body: bytes) -> None:
    plain = json_body._read_plain(body)
    fault = json_body._Scanner(body.decode("utf-8", "surrogateescape")).fault()
    assert plain is None or fault is None
    if fault is None:
        # Compared as written, since 1 == 1.0 == True.
        assert repr(read_object(body)) == repr(json.loads(body))


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_an_ordinary_body_never_meets_the_scanner(ensure_ascii: bool) -> None:
    document = {
        "effective_on": "2026-03-01",
        "source": {"kind": "document", "received_at": "2026-03-02T09:14:55.123456Z", "page": 14},
        "data": {
            "name": "한빛소재 주식회사, annulled: null and void",
            "parties": [{"party_id": f"p{number}", "lei": "529900T8BM49AURSDO55"} for number in range(100)],
            "value": {"amount": "1250000000.00", "currency": "EUR", "approximate": False},
        },
    }
    body = json.dumps(document, ensure_ascii=ensure_ascii, indent=2).encode()
    assert json_body._read_plain(body) == document
