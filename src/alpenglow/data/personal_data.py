"""Personal data in text: found by rules, replaced by a tag, counted.

    text, found = Masks(["email", "ip"]).mask(text)

A tag is never longer than what it replaces. Every rule first finds where such data may be (an `@`,
some digits), in one pass, and then looks at a bounded number of characters around: the work grows
with the text's length alone, whatever the text holds.

What keeps ordinary text whole: an e-mail address has a domain, and none of documentation's own
(example.org, RFC 2606) or that ends like a file; an IP address is public, stands alone, and not
behind words such as "version"; card and bank numbers fulfil their checksums; telephone numbers have
an international prefix or the punctuation of a North American one.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

Check = Callable[[re.Match[str]], tuple[int, int] | None]
"""Returns begin and end of what to replace, or None."""


@dataclass(frozen=True)
class Mask:
    """One rule."""

    tag: str
    finders: tuple[tuple[re.Pattern[str], Check], ...]
    """Where to look: a pattern that begins with a sign that few places have, and what decides."""


@dataclass(frozen=True)
class Masks:
    """Rules, tried one after another in the order of `RULES`.

    Args:
        names: of rules, see `RULES`.

    Raises:
        ValueError: a rule is unknown or named twice.
    """

    names: Sequence[str]

    def __post_init__(self) -> None:
        for number, name in enumerate(self.names):
            if name not in RULES:
                near = difflib.get_close_matches(name, RULES, n=1, cutoff=0.4)
                cure = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(RULES)}"
                raise ValueError(f"unknown mask {name!r}; {cure}")
            if name in self.names[:number]:
                raise ValueError(f"mask {name!r} is named twice")

    def mask(self, text: str) -> tuple[str, dict[str, tuple[int, int]]]:
        """Replace what the rules find.

        Returns:
            The text, and rule -> occurrences, bytes (UTF-8) that the text became shorter; rules
            that found nothing are left out.
        """
        found: dict[str, tuple[int, int]] = {}
        for name, mask in RULES.items():
            if name not in self.names:
                continue
            count = shorter = 0
            for pattern, check in mask.finders:
                text, more, less = _replace(text, pattern, check, mask.tag)
                count, shorter = count + more, shorter + less
            if count:
                found[name] = (count, shorter)
        return text, found


def _replace(text: str, pattern: re.Pattern[str], check: Check, tag: str) -> tuple[str, int, int]:
    parts: list[str] = []
    done = count = shorter = 0
    for match in pattern.finditer(text):
        if match.start() < done:
            continue
        span = check(match)
        if span is None or span[0] < done or span[1] - span[0] < len(tag):
            continue
        parts += (text[done : span[0]], tag)
        shorter += len(text[span[0] : span[1]].encode("utf-8", "surrogatepass")) - len(tag)
        done = span[1]
        count += 1
    if not count:
        return text, 0, 0
    return "".join((*parts, text[done:])), count, shorter


# E-mail: RFC 5321 allows 64 characters before the @ and 255 behind it.
_LOCAL, _DOMAIN = 64, 255
_LOCAL_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w@])"
)
_RESERVED = re.compile(
    r"(?:^|\.)(?:example\.(?:com|net|org|edu)|(?:[a-z0-9-]+\.)*(?:example|test|invalid|localhost))$"
)
_ENDINGS = """
png jpg jpeg gif svg webp css js ts py html htm xml json yaml yml txt md rst c h cc cpp hpp go java
rb php sh conf cfg service timer socket target mount path slice scope local lan
"""
_FILES = frozenset(_ENDINGS.split())
"""Endings of files and unit names (`icon@2x.png`, `getty@tty1.service`), no top-level domains that
people have addresses in."""


def _email(match: re.Match[str]) -> tuple[int, int] | None:
    text, at = match.string, match.start()
    begin = at
    while begin > 0 and at - begin < _LOCAL and text[begin - 1] in _LOCAL_SIGNS:
        begin -= 1
    if begin > 0 and at - begin == _LOCAL and text[begin - 1] in _LOCAL_SIGNS:
        return None  # longer than any address
    while begin < at and text[begin] in ".-%":
        begin += 1
    if begin == at or text[at - 1] == "." or text[max(0, begin - 3) : begin] == "://":
        return None  # nothing before it, or a user's name in an address of the web
    host = _HOST.match(text, at + 1, min(len(text), at + 1 + _DOMAIN))
    if host is None:
        return None
    name = host.group().lower()
    if name.rpartition(".")[2] in _FILES or _RESERVED.search(name):
        return None
    return begin, host.end()


_BEFORE_VERSION = re.compile(
    r"(?:version|versions|release|ver|rev|revision|firmware|build|section|chapter|rfc|oid|v|"
    r"==|>=|<=|~=|\^|§)[\s:=_#\"'(v-]{0,4}\Z",
    re.IGNORECASE,
)


_IPV4 = re.compile(r"(?<![\w.:-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.\w)", re.ASCII)


def _ipv4(match: re.Match[str]) -> tuple[int, int] | None:
    text, begin = match.string, match.start()
    for _ in range(3):
        begin -= begin > 0 and text[begin - 1] in _DIGITS
    whole = _IPV4.match(text, begin)
    if whole is None or whole.end() < match.end():
        return None
    try:
        address = ipaddress.IPv4Address(whole.group())
    except ValueError:
        return None
    if not address.is_global or address.is_multicast:
        return None
    # Each part of a version number is small; of addresses that people have, hardly any is so.
    if max(address.packed) < 32 or address.packed[3] == 0:
        return None
    before = text[max(0, begin - 16) : begin]
    if before.endswith("/") and not before.endswith("//"):
        return None  # a program and its version, as in "Browser/91.0.4.124"
    return None if _BEFORE_VERSION.search(before) else (begin, whole.end())


_IPV6 = re.compile(r"(?<![\w.:])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{1,40}(?![\w:])", re.ASCII)


def _ipv6(match: re.Match[str]) -> tuple[int, int] | None:
    # 2000::/3 is all that is given out; in ordinary text `a::b` names something else.
    whole = _IPV6.match(match.string, match.start())
    if whole is None or whole.group().count(":") < 3:
        return None
    try:
        address = ipaddress.IPv6Address(whole.group())
    except ValueError:
        return None
    return whole.span() if address.is_global else None


def luhn(digits: str) -> bool:
    """Tell whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_ISSUERS = re.compile(
    r"4\d{15}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|"
    r"3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
)
"""Beginnings and lengths of Visa, Mastercard, American Express, Diners, Discover and JCB. Visa's
of 13 and 19 digits are left out: of plain numbers so long one in ten has the right check digit."""

_CARD = re.compile(
    r"(?<![\w.+-])[2-6][0-9]{3}(?:([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}|([ -]?)[0-9]{6}\2[0-9]{4,5})"
    r"(?![\w-]|\.\d)",
    re.ASCII,
)


def _card(match: re.Match[str]) -> tuple[int, int] | None:
    whole = _CARD.match(match.string, match.start())
    if whole is None:
        return None
    digits = re.sub(r"\D", "", whole.group())
    good = _ISSUERS.fullmatch(digits) and len(set(digits)) > 3 and luhn(digits)
    return whole.span() if good else None


_IBAN_COUNTRIES = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29
ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20
LB28 LC32 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29
RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20
"""
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBAN_COUNTRIES.split()}
"""Characters of an IBAN by country (SWIFT's IBAN registry)."""


def _iban(match: re.Match[str]) -> tuple[int, int] | None:
    text, begin = match.string, match.start()
    length = _IBAN_LENGTHS.get(match.group()[:2])
    if length is None or (begin > 0 and text[begin - 1].isalnum()):
        return None
    found = ""
    place = begin
    last = min(len(text), begin + 2 * length)
    while place < last and len(found) < length:
        sign = text[place]
        if sign.isascii() and (sign.isdigit() or sign.isupper()):
            found += sign
        elif sign != " " or text[place - 1] == " ":
            break
        place += 1
    if len(found) < length or (place < len(text) and text[place].isalnum()):
        return None
    # ISO 13616: the first four characters go to the end, letters are 10 to 35, the rest of 97 is 1.
    number = int("".join(str(int(sign, 36)) for sign in found[4:] + found[:4]))
    return (begin, place) if number % 97 == 1 else None


_SSN = re.compile(r"(?<![\w.+-])([0-9]{3})-([0-9]{2})-([0-9]{4})(?![\w-]|\.\d)", re.ASCII)
_VOID = ("123-45-6789", "078-05-1120", "219-09-9999")
"""Social security numbers that were printed in advertisements."""


def _ssn(match: re.Match[str]) -> tuple[int, int] | None:
    whole = _SSN.match(match.string, max(0, match.start() - 3))
    if whole is None or whole.group() in _VOID:
        return None
    area, group, serial = whole.groups()
    # Never given out: area 000, 666, 900 and above; group 00; serial 0000.
    good = area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"
    return whole.span() if good else None


_ABROAD = re.compile(r"(?<![\w.+-])\+[1-9](?:[ .-]?\(?[0-9]\)?){7,14}(?![\w-]|\.\d)", re.ASCII)
_NOT_A_PHONE = re.compile(r"\+(?:[0-9]+\.[0-9]+\Z|(?:19|20)[0-9]{2}[ .-][0-9]{2}[ .-][0-9]{2}\b)")
"""A decimal number; a date in an added line of a patch."""


def _abroad(match: re.Match[str]) -> tuple[int, int] | None:
    whole = _ABROAD.match(match.string, match.start())
    if whole is None or _NOT_A_PHONE.match(whole.group()):
        return None
    parts = re.findall(r"[0-9]+", whole.group())
    if min(map(len, parts[1:]), default=2) < 2 or len(set("".join(parts))) < 3:
        return None
    return whole.span() if 9 <= sum(map(len, parts)) <= 15 else None


_HOME = re.compile(
    r"(?<![\w.+-])(?:\+?1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[.-][0-9]{4}"
    r"(?![\w-]|\.\d)",
    re.ASCII,
)


def _home(match: re.Match[str]) -> tuple[int, int] | None:
    """Find a number of North America: area and exchange begin with 2 to 9."""
    text, at = match.string, match.start()
    # From the sign before the last four digits back to the area: (212) 555-0199, 1-212-555-0199.
    for back in (11, 10, 9, 7):
        whole = _HOME.match(text, at - back) if at >= back else None
        if whole is not None and whole.end() == match.end():
            digits = re.sub(r"\D", "", whole.group())[-10:]
            fiction = digits[3:8] == "55501"
            return None if fiction or len(set(digits)) < 3 else whole.span()
    return None


_DIGITS = frozenset("0123456789")


def _rule(tag: str, *finders: tuple[str, Check]) -> Mask:
    return Mask(tag, tuple((re.compile(pattern, re.ASCII), check) for pattern, check in finders))


# The work on any text grows with its length alone: every repetition is bounded, and none may begin
# inside of what it repeats.
RULES: Mapping[str, Mask] = MappingProxyType(
    {
        "email": _rule("<email>", ("@[A-Za-z0-9]", _email)),
        "iban": _rule("<iban>", (r"[A-Z][A-Z][0-9]{2}[ A-Z0-9]{3}", _iban)),
        "credit card": _rule("<card>", (r"[2-6][0-9]{3}[ -]?[0-9]{4}", _card)),
        "ssn": _rule("<ssn>", (r"-[0-9]{2}-[0-9]{4}", _ssn)),
        "phone": _rule("<phone>", (r"\+[1-9]", _abroad), (r"[.-][0-9]{4}(?![\w-])", _home)),
        "ip": _rule("<ip>", (r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]", _ipv4)),
        "ipv6": _rule("<ipv6>", (r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f]{0,4}:", _ipv6)),
    }
)
"""Name -> rule, in the order in which they are tried: what is longer goes first."""
