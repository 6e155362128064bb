"""Complete events ("ph": "X") of a stretch of Chrome JSON, as columns, without a JSON parser.

Keys (a quote before a colon) and braces are found for the whole stretch at once; the quotes between
braces, odd or even, tell which braces are text. A key is recognised by the bytes before its colon.
So time goes with bytes at the pace of a few numpy passes, and no event becomes a Python object.
Only events of communication, which are few, are read whole, for their sizes and groups.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow_profiling.kineto_numbers import PADDING, Words, decimals, words

Index = NDArray[np.intp]
Integers = NDArray[np.signedinteger[Any]]

_QUOTE, _OPEN, _CLOSE, _BAR, _BACKSLASH, _COLON = b'"{}|\\:'
_FRONT = b" " * 16  # a key's eight last bytes may be read before the first brace
_SPACE = np.zeros(256, dtype=bool)
_SPACE[list(b" \n\r\t")] = True
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)
_QUOTES = np.uint64(0x2222222222222222)
_LOW = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_COMMUNICATION = (b"nccl", b"gloo:", b"c10d::", b"record_param_comms", b"rccl", b"mpi:", b"ucc:")
_STRING = re.compile(rb'(?:[^"\\]|\\.)*', re.DOTALL)
_REMEMBERED = 1 << 16  # texts; names that never come twice shall not fill the memory
_SPACED_COLON = re.compile(rb'(?<!\\)"[ \n\r\t]+:')

# name of the column, key in the file, depth (1: of the event, 2: of its args)
NUMBERS = (
    ("pid", b"pid", 1),
    ("tid", b"tid", 1),
    ("stream", b"stream", 2),
    ("correlation", b"correlation", 2),
    ("external", b"External id", 2),
)
_PH, _TS, _DUR, _CAT, _NAME, _FIRST_NUMBER = range(6)
_KEYS = (b"ph", b"ts", b"dur", b"cat", b"name", *(key for _, key, _ in NUMBERS))
_DEPTHS = np.array([1] * _FIRST_NUMBER + [depth for _, _, depth in NUMBERS])


def _number(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text, "little"))


# A key is looked for by the three bytes before its closing quote, then compared whole.
_SPELLED = [b'"' + key for key in _KEYS]
_LENGTHS = np.array([len(spelled) for spelled in _SPELLED])
_LAST = np.array([_number(spelled[-8:]) for spelled in _SPELLED])
_SHIFTS = np.array([8 * max(8 - len(spelled), 0) for spelled in _SPELLED], dtype=np.uint64)
_FIRST = np.array([_number(spelled[:8]) for spelled in _SPELLED])
_NO_KEY = 255
_TOP_BITS = np.uint32(22)


def _perfect_hash() -> tuple[np.uint32, NDArray[np.uint8]]:
    """A multiplier that sends the keys' endings to different ten-bit numbers; the key by number."""
    endings = [int.from_bytes(spelled[-3:], "little") for spelled in _SPELLED]
    mix = 1
    for _ in range(1000):
        mix = mix * 1664525 % 2**32  # Knuth's multiplier for 32 bits
        places = [ending * mix % 2**32 >> 22 for ending in endings]
        if len(set(places)) == len(places):
            table = np.full(1 << 10, _NO_KEY, dtype=np.uint8)
            table[places] = np.arange(len(places))
            return np.uint32(mix), table
    raise AssertionError("no multiplier tells the keys apart")


_MIX, _SLOTS = _perfect_hash()


class Names(dict[bytes, int]):
    """Numbers for strings in order of appearance, looked up by text that begins with the string.

    Text goes on behind the string's closing quote in any way: looking it up finds the string and
    counts equal ones once. `communication` tells for each whether events of that name are read
    whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self._number: dict[bytes, int] = {}
        self.communication: list[bool] = []

    def __missing__(self, text: bytes) -> int:
        match = _STRING.match(text)
        string = match[0] if match else text
        number = self._number.get(string)
        if number is None:
            number = self._number[string] = len(self._number)
            self.communication.append(string.lower().startswith(_COMMUNICATION))
        if len(self) < _REMEMBERED:
            self[text] = number
        return number

    def decoded(self) -> list[str]:
        """The strings themselves, by number."""
        return [_decoded(string) for string in self._number]


def _decoded(text: bytes) -> str:
    plain = text.decode("utf-8", "replace")
    if "\\" not in plain:
        return plain
    try:
        return str(json.loads(f'"{plain}"', strict=False))
    except ValueError:
        return plain


@dataclass
class Stretch:
    """Columns of one stretch: a row a complete event, in the order of the file.

    Times in ns as the file has them; -1 where an event has no such number. `details` are (row in
    this stretch, args) of communication. `used` bytes of the stretch were read; `over` says that
    the array of events ended there. `problem` is empty or says what is wrong behind `used`.
    `whole_times` is False where an event, complete or not, has no time or one with a fraction.
    """

    used: int
    over: bool
    problem: str
    events: int
    whole_times: bool
    begin: NDArray[np.int64]
    duration: Integers
    name: NDArray[np.int32]
    category: NDArray[np.int16]
    numbers: dict[str, Integers]
    details: list[tuple[int, dict[str, Any]]]


def scan(text: bytes, names: Names, categories: Names) -> Stretch:
    """Read the whole events of `text`, which begins between two events of the array.

    The rest behind the last whole event is the caller's to keep. New strings are added to `names`
    and `categories`.
    """
    buffer = b"".join((_FRONT, text, bytes(PADDING)))
    word = words(buffer)
    found = _Tokens(buffer)
    shape = _Shape(found, len(_FRONT), len(_FRONT) + len(text))
    keys = _Keys(found, shape, word)
    complete, total = keys.complete, int(np.count_nonzero(keys.complete))
    times, fraction = _columns(buffer, word, keys, (_TS, _CAT), total, milli=True)
    numbers, _ = _columns(buffer, word, keys, (_FIRST_NUMBER, len(_KEYS)), total, milli=False)
    name = np.zeros(total, dtype=np.int32)
    row, start, after = keys.of(_NAME, _NAME + 1)
    texts = [buffer[a + 1 : b] for a, b in zip(start.tolist(), after.tolist(), strict=True)]
    name[row] = list(map(names.__getitem__, texts))
    category = np.zeros(total, dtype=np.int16)
    row, start, _ = keys.of(_CAT, _CAT + 1)
    category[row] = _few(buffer, word, start + 1, categories)
    opens, closes = shape.opens[complete], shape.closes[complete]
    details = [
        (row, args)
        for row in np.flatnonzero(np.array(names.communication, dtype=bool)[name]).tolist()
        if (args := _args(buffer[opens[row] : closes[row] + 1]))
    ]
    return Stretch(
        used=shape.used - len(_FRONT),
        over=shape.over,
        problem=shape.problem,
        events=shape.count,
        whole_times=keys.times_known and not fraction,
        begin=times[0].copy(),
        duration=_narrow(times[1]),
        name=name,
        category=category,
        numbers={label: _narrow(numbers[i]) for i, (label, _, _) in enumerate(NUMBERS)},
        details=details,
    )


def close_colons(text: bytes) -> bytes:
    """The same JSON without white space between a key and its colon (some writers put it there)."""
    return _SPACED_COLON.sub(b'":', text)


def _columns(
    buffer: bytes, word: Words, keys: _Keys, which: tuple[int, int], total: int, *, milli: bool
) -> tuple[NDArray[np.int64], bool]:
    """A row of numbers for each of the keys from `which[0]` to before `which[1]`, -1 where none is.

    Also whether one of the first key's has a fraction.
    """
    row, start, _ = keys.of(*which)
    column = keys.slots(*which)
    values, fraction = decimals(buffer, word, start, milli=milli)
    table = np.full((which[1] - which[0], total), -1, dtype=np.int64)
    table[column, row] = values
    return table, bool(fraction[column == 0].any())


def _narrow(column: NDArray[np.int64]) -> Integers:
    """A copy in 32 bits where that is enough."""
    if len(column) and (column.max() >= 2**31 or column.min() < -(2**31)):
        return column.copy()
    return column.astype(np.int32)


class _Tokens:
    """The closing quotes of keys, and the braces outside of strings."""

    def __init__(self, buffer: bytes) -> None:
        self.buffer = buffer
        text = self.text = np.frombuffer(buffer, np.uint8)
        quote = text == _QUOTE
        self.escapes = b"\\" in buffer
        if self.escapes:
            _drop_escaped(text, quote)
        self.quote = quote
        brace = (text - np.uint8(_OPEN)) <= 2  # { | }: a bar is dropped below
        brace[:-1] |= quote[:-1] & (text[1:] == _COLON)
        token = np.flatnonzero(brace)
        kind = text[token]
        if (bar := kind == _BAR).any():
            token, kind = token[~bar], kind[~bar]
        at = np.flatnonzero(kind != _QUOTE)
        # Quotes in [0, first brace), [first, second) ...; odd sums are braces inside a string.
        between = np.bitwise_xor.reduceat(quote.view(np.uint8), np.concatenate(([0], token[at])))
        inside = np.bitwise_xor.accumulate(between)[:-1] == 1
        if inside.any():
            keep = np.ones(len(token), dtype=bool)
            keep[at[inside]] = False
            token, kind = token[keep], kind[keep]
            at = np.flatnonzero(kind != _QUOTE)
        key = np.flatnonzero(kind == _QUOTE)
        self.key = token[key]
        self.braces_before = key - np.arange(len(key))
        self.brace = token[at]
        self.opening = kind[at] == _OPEN
        self.depth = np.cumsum(np.where(self.opening, 1, -1))


def _drop_escaped(text: NDArray[np.uint8], quote: NDArray[np.bool_]) -> None:
    """Unset the quotes before which an odd number of backslashes stands."""
    at = np.flatnonzero(quote[1:] & (text[:-1] == _BACKSLASH)) + 1
    back, left = np.ones(len(at), dtype=np.intp), np.arange(len(at))
    while len(left):
        left = left[text[at[left] - back[left] - 1] == _BACKSLASH]
        back[left] += 1
    quote[at[back % 2 == 1]] = False


class _Shape:
    """Which events are whole, and whether the array of events ends in this stretch."""

    def __init__(self, tokens: _Tokens, begin: int, length: int) -> None:
        text, depth, brace = tokens.text, tokens.depth, tokens.brace
        outside = np.concatenate(([0], depth))[tokens.braces_before] == 0
        ends = [length]
        if len(first := np.flatnonzero(depth < 0)[:1]):  # the object around the array closes
            ends.append(int(brace[first[0]]))
        if len(first := np.flatnonzero(outside)[:1]):  # a key behind the array
            ends.append(tokens.buffer.rfind(b'"', 0, int(tokens.key[first[0]])))
        end = min(ends)
        self.closes = brace[~tokens.opening & (depth == 0) & (brace < end)]
        self.count = len(self.closes)
        self.opens = brace[tokens.opening & (depth == 1)][: self.count]
        self.used = int(self.closes[-1]) + 1 if self.count else begin
        tail = tokens.buffer[self.used : end]
        after = tail.lstrip(b" \n\r\t,")
        self.over = after.startswith(b"]")
        self.problem = ""
        if self.over:
            self.used += len(tail) - len(after) + 1
        elif end < length or (after and not after.startswith(b"{")):
            self.problem = "is not a list of JSON objects"
        if self.count and not self._separate(text, np.append(begin, self.closes[:-1] + 1)):
            self.problem = "is not a list of JSON objects"

    def _separate(self, text: NDArray[np.uint8], at: Index) -> bool:
        """Whether only commas and white space stand between the events."""
        left = self.opens - at
        while len(at):
            keep = left > 0
            at, left = at[keep], left[keep]
            found = text[at]
            if not (_SPACE[found] | (found == ord(","))).all():
                return False
            at, left = at + 1, left - 1
        return True


class _Keys:
    """The wanted keys of complete events, sorted by key: row, where the value stands, what follows.

    `complete`: which events of the stretch are (they have all of ph "X", ts, dur and name).
    `times_known`: every event, complete or not, has a time.
    """

    def __init__(self, tokens: _Tokens, shape: _Shape, word: Words) -> None:
        text = tokens.text
        every = tokens.key[: int(np.searchsorted(tokens.key, shape.used))]
        ending = np.ndarray((len(text) - 3,), "<u4", tokens.buffer, 0, (1,))[every - 4]
        slot = _SLOTS[((ending >> np.uint32(8)) * _MIX) >> _TOP_BITS]
        index = np.flatnonzero(slot != _NO_KEY)
        key, slot = every[index], slot[index]
        brace = tokens.braces_before[index] - 1
        same = (word[key - 8] >> _SHIFTS[slot]) == _LAST[slot]
        same &= tokens.depth[brace] == _DEPTHS[slot]
        long = np.flatnonzero(slot >= len(_KEYS) - 2)  # correlation and External id
        same[long] &= word[key[long] - _LENGTHS[slot[long]]] == _FIRST[slot[long]]
        if tokens.escapes:  # the quote before the name may be a character of a longer key
            same &= tokens.quote[key - _LENGTHS[slot]]
        event = (np.cumsum(tokens.opening & (tokens.depth == 1)) - 1)[brace]
        self.times_known = int(np.count_nonzero(same & (slot == _TS))) >= shape.count
        phase = np.flatnonzero(same & (slot == _PH))
        value = key[phase] + 2
        _skip_space(text, value)
        self.complete = np.zeros(shape.count, dtype=bool)
        self.complete[event[phase]] = (word[value] & _MASKS[3]) == _number(b'"X"')
        for needed in (_TS, _DUR, _NAME):
            has = np.zeros(shape.count, dtype=bool)
            has[event[same & (slot == needed)]] = True
            self.complete &= has
        pick = np.flatnonzero(same & self.complete[event])
        pick = pick[np.argsort(slot[pick], kind="stable")]
        slot, key, index = slot[pick], key[pick], index[pick] + 1
        value = key + 2
        _skip_space(text, value)
        every = np.append(every, [len(text) - PADDING] * 2)
        index += every[index] == value  # the value's own opening quote, before a colon
        self._row = (np.cumsum(self.complete) - 1)[event[pick]]
        self._value, self._after, self._slot = value, every[index], slot
        self._bounds = np.searchsorted(slot, np.arange(len(_KEYS) + 1)).tolist()

    def of(self, first: int, last: int) -> tuple[Index, Index, Index]:
        """Row, first character of the value, and closing quote of the key that follows."""
        part = slice(self._bounds[first], self._bounds[last])
        return self._row[part], self._value[part], self._after[part]

    def slots(self, first: int, last: int) -> Index:
        """Which key it is, from 0, for the same ones as `of`."""
        part: Index = self._slot[self._bounds[first] : self._bounds[last]].astype(np.intp)
        return part - first


def _skip_space(text: NDArray[np.uint8], at: Index) -> None:
    """Move positions on to the next character that is no white space, in place."""
    at += text[at] == ord(" ")
    blank = np.flatnonzero(text[at] <= ord(" "))
    while len(blank):
        at[blank] += 1
        blank = blank[_SPACE[text[at[blank]]]]


def _few(buffer: bytes, word: Words, start: Index, table: Names) -> NDArray[np.int16]:
    """Numbers of strings of which there are only a few different ones, told apart by 24 bytes."""
    key = np.zeros(len(start), dtype=np.uint64)
    going = np.ones(len(start), dtype=bool)
    for part in range(3):
        piece = word[np.minimum(start + 8 * part, len(word) - 1)]
        other = piece ^ _QUOTES
        ends = (other - _LOW) & ~other & _HIGH  # the lowest set bit marks the first quote
        lowest = ends & (~ends + np.uint64(1))
        within = np.where(ends == 0, ~np.uint64(0), (lowest >> np.uint64(7)) - np.uint64(1))
        key = key * np.uint64(0x9E3779B97F4A7C15) + (piece & within) * going
        going &= ends == 0
    result = np.full(len(start), -1, dtype=np.int16)
    left = np.arange(len(start))
    while len(left):
        sample = left[0]
        same = key[left] == key[sample]
        at = int(start[sample])
        result[left[same]] = table[buffer[at : buffer.find(b'"', at)]]
        left = left[~same]
    return result


def _args(event: bytes) -> dict[str, Any]:
    try:
        args = json.loads(event).get("args")
    except ValueError:
        return {}
    return args if isinstance(args, dict) else {}
