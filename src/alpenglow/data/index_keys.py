"""What documents are found by, and when two of them are the same.

**id**: the 16 bytes. **url**: without scheme, `www.`, fragment and one closing slash, its host in
small letters, so that http and https are one page; a path of a repository as it is. **domain**:
the host in small letters and punycode, without user, port, closing dot and `www.`; a document is
under its host and under each shorter ending of two labels or more, so `example.org` finds
`blog.example.org`, and `co.uk` all below it: there is no list of public suffixes here. An IP
address is under itself. Only a URL with a scheme has a domain. **licence**, **source**: the words
as they stand.
"""

from __future__ import annotations

import contextlib

import xxhash

KINDS = ("id", "url", "domain", "licence", "source")
LONGEST = 8
"""A host of more labels is under its last so many and their endings, and under itself."""


def address(url: str) -> str:
    """A URL in the form in which two of one page are equal."""
    _, scheme, rest = url.partition("://")
    if not scheme:
        return url
    rest = rest.partition("#")[0]
    cut = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    host = rest[:cut].lower().removeprefix("www.")
    return (host + rest[cut:]).removesuffix("/")


def host(url: str) -> str:
    """The host of a URL, normal; empty where it has none."""
    _, scheme, rest = url.partition("://")
    if not scheme:
        return ""
    for border in "/?#\\":
        rest = rest.partition(border)[0]
    return domain(rest.rpartition("@")[2])


def domain(name: str) -> str:
    """A host name in its normal form."""
    name = name.strip().lower()
    if name.startswith("["):  # IPv6
        return name.partition("]")[0] + "]"
    name = name.partition(":")[0].rstrip(".").removeprefix("www.")
    if not name.isascii():
        with contextlib.suppress(UnicodeError):  # no lawful host name: found by what it says
            name = name.encode("idna").decode("ascii")
    return name


def domains(name: str) -> list[str]:
    """A normal host name and the endings that it is under, longest first."""
    labels = name.split(".")
    if not name or len(labels) <= 2 or name.startswith("[") or labels[-1].isdigit():
        return [name] if name else []
    endings = [
        ".".join(labels[at:]) for at in range(max(1, len(labels) - LONGEST), len(labels) - 1)
    ]
    return [name, *endings]


def normal(kind: str, value: str) -> str:
    """A value as it is looked up; ids are hexadecimal."""
    if kind == "url":
        return address(value)
    return domain(value.rpartition("://")[2].partition("/")[0]) if kind == "domain" else value


def key(kind: str, value: str) -> int:
    """The 64 bits by which the index finds a normal value; xxh3-64, of an id its first 8 bytes."""
    if kind == "id":
        return int.from_bytes(bytes.fromhex(value)[:8], "little")
    return xxhash.xxh3_64_intdigest(value.encode("utf-8", "surrogatepass"))
