"""Personal data: what is found, what ordinary text keeps, and how the work grows."""

from __future__ import annotations

import re
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpenglow.data import personal_data
from alpenglow.data.personal_data import RULES, Masks, luhn

ALL = Masks(tuple(RULES))


@pytest.mark.parametrize(
    ("rule", "text", "wanted"),
    [
        ("email", "write to Jane.Doe+x@mail.company.co.uk.", "write to <email>."),
        ("email", "<jane@company.de>, (a_b@c-d.io)", "<<email>>, (<email>)"),
        ("email", "mailto:jane@company.de?subject", "mailto:<email>?subject"),
        ("ip", "from 203.0.114.77 to 8.8.8.200:53", "from <ip> to <ip>:53"),
        ("ip", "http://91.198.174.192/x", "http://<ip>/x"),
        ("ipv6", "host 2a00:1450:4001:81b::200e up", "host <ipv6> up"),
        ("ipv6", "[2607:f8b0:4005:0805:0000:0000:0000:200e]:80", "[<ipv6>]:80"),
        ("phone", "call +49 30 901820 or +1 (212) 736-5000.", "call <phone> or <phone>."),
        ("phone", "+442079460958, 212-736-5000; (212) 736-5000", "<phone>, <phone>; <phone>"),
        ("phone", "1-800-356-9377 and 212.736.5000", "<phone> and <phone>"),
        ("iban", "IBAN DE89 3704 0044 0532 0130 00, now", "IBAN <iban>, now"),
        ("iban", "GB82WEST12345698765432", "<iban>"),
        ("credit card", "card 4111 1111 1111 1234-", "card 4111 1111 1111 1234-"),
        ("credit card", "card 4539 5787 6362 1486 ok", "card <card> ok"),
        ("credit card", "4539578763621486, 378282246310005", "<card>, <card>"),
        ("credit card", "3782-822463-10005", "<card>"),
        ("ssn", "SSN: 536-90-4399.", "SSN: <ssn>."),
    ],
)
def test_what_is_masked(rule: str, text: str, wanted: str) -> None:
    masked, found = Masks([rule]).mask(text)
    assert masked == wanted
    count = wanted.count(RULES[rule].tag)
    assert found == ({rule: (count, len(text) - len(wanted))} if count else {})
    # With all rules, none takes what another one names.
    if count:
        assert ALL.mask(text) == (masked, found)


@pytest.mark.parametrize(
    "text",
    [
        "version 81.2.33.4, v91.0.44.124 and pkg==45.2.33.4, firmware: 61.2.3.4",
        "Browser/91.0.44.124 1.2.3.4 10.0.0.1 192.168.1.77 127.0.0.1 224.0.0.251 300.1.1.1 "
        "91.198.174.0 1.2.3.4.5 91.198.174.192.5 a91.198.174.192 255.255.255.255",
        "2021-03-04 04.03.2021 12:34:56 2023-12-31T23:59:59+0100 1999-2004 +2019-01-01 12",
        "ISBN 978-0-306-40615-7, 0-306-40615-2, 9780306406157; ISSN 2049-3630; doi 10.1000/182",
        "123-45-6789 000-12-3456 666-12-3456 912-34-5678 536-00-4399 536-90-0000 1536-90-4399",
        "4539 5787 6362 1487 4539578763621486.5 x4539578763621486 4444444444444448",
        "0x4539578763621486 1234567890123456789 3.14159265358979323846",
        "jane@example.org a@b.test icon@2x.png getty@tty1.service git@ @user user@host @media x@y",
        "https://user@company.de/ deco\n@functools.cache\ndef f(a@b): pass; a @ b.T",
        "std::vector<int> a::b 2001:db8::1 fe80::1:2:3 ::1 12:34:56:78 2021:10:11",
        "+48.85661400 x +12345678 +100 (555) 12 DE89 3704 0044 0532 0130 01 AB12 CDEF",
        "212-555-0142 (212) 555-0199 100-200-3000 212-736-50001 0212-736-5000",
    ],
)
def test_ordinary_text_is_kept(text: str) -> None:
    assert ALL.mask(text) == (text, {})


def test_counts_are_bytes_and_occurrences() -> None:
    text = "é jane@company.de é joe@company.de ü 91.198.174.192"
    masked, found = ALL.mask(text)
    assert masked == "é <email> é <email> ü <ip>"
    assert found == {"email": (2, 8 + 8 - 1), "ip": (1, 10)}
    assert len(text.encode()) - len(masked.encode()) == sum(less for _, less in found.values())


def test_names() -> None:
    with pytest.raises(ValueError, match="unknown mask 'emial'; did you mean 'email'"):
        Masks(["emial"])
    with pytest.raises(ValueError, match="named twice"):
        Masks(["ip", "ip"])
    assert Masks([]).mask("jane@company.de") == ("jane@company.de", {})


def test_luhn() -> None:
    assert luhn("79927398713")
    assert not any(luhn(f"7992739871{digit}") for digit in "012456789")


SIGNS = ("@", ".", "-", "+", " ", ":", "a", "1", "4", "2001:", "DE89", "jane@company.de",
         "91.198.174.192", "4539578763621486", "+1 212 736 5000", "212-736-5000",
         "536-90-4399")  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=8),
            st.sampled_from(SIGNS),
        ),
        max_size=40,
    ).map("".join)
)
def test_masking_shortens_and_leaves_nothing(text: str) -> None:
    masked, found = ALL.mask(text)
    before, after = (len(x.encode("utf-8", "surrogatepass")) for x in (text, masked))
    assert before - after == sum(less for _, less in found.values())
    assert all(count > 0 and less >= 0 for count, less in found.values())
    tags = sum(len(re.findall(re.escape(mask.tag), masked)) for mask in RULES.values())
    given_tags = sum(text.count(mask.tag) for mask in RULES.values())
    assert tags == given_tags + sum(count for count, _ in found.values())


HOSTILE: dict[str, Callable[[int], str]] = {
    "@": lambda size: "@" * size,
    "a@": lambda size: "a@" * (size // 2),
    "a.a.": lambda size: "a." * (size // 2),
    "@a.a.": lambda size: "@" + "a." * (size // 2),
    "long names": lambda size: ("a" * 300 + "@" + "b-" * 150) * (size // 600),
    "domains": lambda size: ("x@" + "a-a-a-a-a." * 30) * (size // 302),
    "digits": lambda size: "1" * size,
    "fours": lambda size: "4539 " * (size // 5),
    "dots": lambda size: "9.9." * (size // 4),
    "plus": lambda size: ("+1" + "2" * 30) * (size // 32),
    "dashes": lambda size: "212-736-" * (size // 8),
    "colons": lambda size: "2a00:" * (size // 5),
    "banks": lambda size: "DE89 " * (size // 5),
    "capitals": lambda size: "AB12" * (size // 4),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_work_grows_with_the_length(name: str) -> None:
    """Sixteen times the text takes far less than the 256 times of work that is its square."""

    def seconds(text: str) -> float:
        best = float("inf")
        for _ in range(3):
            begin = time.process_time()
            ALL.mask(text)
            best = min(best, time.process_time() - begin)
        return best

    short, long = HOSTILE[name](20_000), HOSTILE[name](320_000)
    assert seconds(long) < 80 * max(seconds(short), 1e-3)


def test_real_code_and_prose() -> None:
    """In this Python's own library hardly anything is masked that is no address."""
    folder = Path(sysconfig.get_path("stdlib"))
    taken: list[str] = []

    def noting(text: str) -> None:
        for name, mask in RULES.items():
            for pattern, check in mask.finders:
                for match in pattern.finditer(text):
                    span = check(match)
                    if span is not None:
                        taken.append(f"{name}: {text[span[0] : span[1]]}")

    size = 0
    for path in sorted(folder.rglob("*.py"))[::3]:
        if "test" not in path.parts and "site-packages" not in path.parts:
            text = path.read_text("utf-8", "replace")
            size += len(text)
            noting(text)
    assert size > 1_000_000
    assert any(entry.startswith("email: ") for entry in taken)
    others = [entry for entry in taken if not entry.startswith("email: ")]
    assert len(others) <= size / 1_000_000, others


def test_every_country_has_a_length() -> None:
    assert len(personal_data._IBAN_LENGTHS) > 70
    assert all(15 <= length <= 32 for length in personal_data._IBAN_LENGTHS.values())
