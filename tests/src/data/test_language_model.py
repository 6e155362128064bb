"""The language model: its probabilities by another road, its perplexity, its file."""

from __future__ import annotations

import errno
import itertools
import json
import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import h5py
import numpy as np
import pytest

from alpenglow.data import language_model_estimate, train_lm
from alpenglow.data.document import DataError, Document
from alpenglow.data.document_store import StoreWriter
from alpenglow.data.language_model import LanguageModel, lines_of, normalise
from alpenglow.data.language_model_estimate import Vocabulary, as_lines, estimate
from alpenglow.data.language_model_training import LanguageModelSettings, train
from alpenglow.data.seed_text import Seed


def topics() -> list[str]:
    """Pages on Python's own language: real text that every Python has."""
    from pydoc_data import topics as pages

    by_name: dict[str, str] = pages.topics  # a dict of strings
    texts = [text for _, text in sorted(by_name.items()) if len(text) > 200]
    if not texts:
        pytest.skip("this Python has no pydoc topics")
    return texts


class Kn:
    """Interpolated modified Kneser-Ney, from the definition, one n-gram at a time."""

    def __init__(
        self, lines: list[list[int]], vocabulary: Vocabulary, order: int, prune: int
    ) -> None:
        self.vocabulary, self.order, self.prune = vocabulary, order, prune
        raw: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 1)]
        for line in lines:
            whole = (vocabulary.begin, *line, vocabulary.end)
            for n in range(1, order + 1):
                for i in range(len(whole) - n + 1):
                    raw[n][whole[i : i + n]] += 1
        self.raw = raw
        self.count: list[dict[tuple[int, ...], int]] = [{} for _ in range(order + 1)]
        for n in range(1, order + 1):
            lefts: dict[tuple[int, ...], set[int]] = defaultdict(set)
            if n < order:
                for longer in raw[n + 1]:
                    lefts[longer[1:]].add(longer[0])
            for gram, count in raw[n].items():
                own = n == order or gram[0] == vocabulary.begin
                self.count[n][gram] = count if own else len(lefts[gram])
        del self.count[1][(vocabulary.begin,)]
        self.cuts = [(0.0, 0.0, 0.0)]
        for n in range(1, order + 1):
            n1, n2, n3, n4 = (
                sum(1 for count in self.count[n].values() if count == k) for k in (1, 2, 3, 4)
            )
            if min(n1, n2, n3, n4) == 0:
                self.cuts.append(language_model_estimate.FALLBACK)
                continue
            y = n1 / (n1 + 2 * n2)
            cuts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
            lawful = all(0 <= cut <= k for k, cut in enumerate(cuts, 1))
            self.cuts.append(cuts if lawful else language_model_estimate.FALLBACK)

    def probability(self, context: tuple[int, ...], token: int) -> float:
        n = len(context) + 1
        uniform = 1 / (self.vocabulary.size + 1)
        below = uniform if n == 1 else self.probability(context[1:], token)
        after = {gram: count for gram, count in self.count[n].items() if gram[:-1] == context}
        total = sum(after.values())
        if not total:
            return below
        share = 0.0
        free = 0.0
        for gram, count in after.items():
            cut = self.cuts[n][min(count, 3) - 1]
            kept = n < 3 or self.raw[n][gram] > self.prune
            free += cut if kept else count
            if gram[-1] == token and kept:
                share = (count - cut) / total
        return share + free / total * below


def tiny(seed: int, size: int = 9, lines: int = 60) -> tuple[list[list[int]], Vocabulary]:
    """Lines with a bias to some words, so that counts of counts are all there."""
    rng = random.Random(seed)
    weights = [1 / (k + 1) for k in range(size - 1)]  # the last token never comes
    return [
        rng.choices(range(size - 1), weights, k=rng.randint(1, 9)) for _ in range(lines)
    ], Vocabulary(size)


def model_of(
    lines: list[list[int]], vocabulary: Vocabulary, order: int, prune: int
) -> LanguageModel:
    from tokenizers import Tokenizer, models

    words = {chr(97 + k): k for k in range(vocabulary.size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokens = np.array([token for line in lines for token in line], np.int32)
    counts = np.array([len(line) for line in lines])
    levels, _ = estimate(*as_lines(tokens, counts, vocabulary), vocabulary, order, prune)
    return LanguageModel.of(backend.to_str(), levels, {"language": "tiny"})


def scores(model: LanguageModel, line: list[int]) -> np.ndarray:
    counts = np.array([len(line)])
    stream, place = as_lines(np.array(line, np.int32), counts, model.vocabulary)
    return model.scores(stream, place)[1:]


@pytest.mark.parametrize(
    ("order", "prune"), [(1, 0), (2, 0), (3, 0), (3, 1), (5, 0), (5, 1), (5, 2)]
)
def test_probabilities_are_those_of_the_definition(order: int, prune: int) -> None:
    lines, vocabulary = tiny(order)
    model, exact = model_of(lines, vocabulary, order, prune), Kn(lines, vocabulary, order, prune)
    rng = random.Random(7)
    unseen = [rng.choices(range(vocabulary.size), k=8) for _ in range(12)]
    for line in [*lines[:12], *unseen, []]:
        whole = (vocabulary.begin, *line, vocabulary.end)
        expected = [
            math.log10(exact.probability(whole[max(0, i - order + 1) : i], whole[i]))
            for i in range(1, len(whole))
        ]
        assert scores(model, line) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("prune", [0, 1])
def test_estimated_discounts_too_are_compared(prune: int) -> None:
    lines, vocabulary = tiny(3, size=20, lines=150)
    exact = Kn(lines, vocabulary, 3, prune)
    assert language_model_estimate.FALLBACK not in exact.cuts[2:]
    model = model_of(lines, vocabulary, 3, prune)
    line = [0, 1, 2, 0, 5, 19, 3]
    whole = (vocabulary.begin, *line, vocabulary.end)
    expected = [
        math.log10(exact.probability(whole[max(0, i - 2) : i], whole[i]))
        for i in range(1, len(whole))
    ]
    assert scores(model, line) == pytest.approx(expected, abs=1e-9)


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, list[str], Path]:
    """A model of real text, what was held out of it, and its file."""
    folder = tmp_path_factory.mktemp("language_model")
    pages = topics()
    held_out = pages[::5]
    for number, page in enumerate(page for page in pages if page not in held_out):
        path = folder / "seed" / f"{number:03d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(page, encoding="utf-8")
    model = train(Seed([folder / "seed"]), LanguageModelSettings("en", vocabulary=2000))
    model.save(folder / "en.h5")
    return model, held_out, folder


def test_probabilities_of_all_tokens_sum_to_1(
    english: tuple[LanguageModel, list[str], Path],
) -> None:
    model, held_out, _ = english
    lines = [words for page in held_out[:6] for words in lines_of(page)][:400:10]
    stream, place = model.stream(lines)
    begins = [*np.flatnonzero(place == 0), len(stream)]
    for begin, end in itertools.pairwise(begins):
        context = stream[begin : begin + min(6, end - begin - 1)]
        # The context followed by every token there is.
        every = np.delete(np.arange(model.vocabulary.all), model.vocabulary.begin)
        tokens = np.concatenate([[*context, token] for token in every]).astype(np.int32)
        places = np.tile(np.arange(len(context) + 1, dtype=np.int32), len(every))
        last = model.scores(tokens, places)[len(context) :: len(context) + 1]
        assert (10.0**last).sum() == pytest.approx(1, abs=1e-9)


def test_perplexity_is_that_of_cc_net(english: tuple[LanguageModel, list[str], Path]) -> None:
    model, held_out, _ = english
    found = model.perplexity(held_out)
    for text, perplexity in zip(held_out, found, strict=True):
        score, length = 0.0, 0
        for line in text.split("\n"):
            if line.strip():
                stream, place = model.stream([line.split()])
                score += float(model.scores(stream, place)[1:].sum())
                length += len(stream) - 1  # subwords, and the end of the line
        assert perplexity == pytest.approx(10 ** (-score / length), rel=1e-12)


def test_shuffled_words_read_worse(english: tuple[LanguageModel, list[str], Path]) -> None:
    model, held_out, _ = english
    rng = random.Random(0)
    shuffled = []
    for text in held_out:
        lines = [line.split() for line in text.split("\n")]
        for line in lines:
            rng.shuffle(line)
        shuffled.append("\n".join(" ".join(line) for line in lines))
    assert (model.perplexity(held_out) < model.perplexity(shuffled)).all()


def test_text_of_any_kind(english: tuple[LanguageModel, list[str], Path]) -> None:
    model, held_out, _ = english
    long = " ".join(held_out) * 20  # in pieces, none at the end of a line
    one_line = long.replace("\n", " ")
    assert len(long) > 1_000_000
    texts = ["", " \n\n", "\ud800 half a pair", "日本語のテキスト", "x" * 1_500_000, long, one_line]
    found = model.perplexity(texts)
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2:]).all()
    assert found[5] < found[3]
    # Cutting a long text costs a line's beginning and end a megabyte, no more.
    repeated = model.perplexity([one_line[:400_000]])[0]
    assert found[6] == pytest.approx(repeated, rel=0.05)


def test_what_counts_as_the_same_word() -> None:
    assert normalise("Zürich, 27. Mai – «Größe»") == 'zurich, 00. mai - "große"'
    assert normalise("한국어") == "한국어"
    assert normalise("\ud800x") == "\ufffdx"


def test_a_file_gives_the_same_model_back(
    english: tuple[LanguageModel, list[str], Path], tmp_path: Path
) -> None:
    model, held_out, folder = english
    loaded = LanguageModel.load(folder / "en.h5")
    assert loaded.language == "en"
    assert loaded.about["seed"] == model.about["seed"]
    assert loaded.perplexity(held_out) == pytest.approx(model.perplexity(held_out), rel=1e-5)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    again = train(Seed([folder / "seed"]), LanguageModelSettings("en", vocabulary=2000))
    again.save(tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == (folder / "en.h5").read_bytes()


def test_damaged_files_are_named(
    english: tuple[LanguageModel, list[str], Path], tmp_path: Path
) -> None:
    _, _, folder = english
    data = (folder / "en.h5").read_bytes()
    path = tmp_path / "en.h5"
    for length in (0, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"en\.h5: cut, or no model .*train-lm"):
            LanguageModel.load(path)
    path.write_bytes(data)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(DataError, match="format version 99, this is 1; train it again"):
        LanguageModel.load(path)
    with h5py.File(path, "r+") as file:
        file.attrs["kind"] = "classifier"
    with pytest.raises(DataError, match="a classifier, where a language model is asked for"):
        LanguageModel.load(path)


def test_nothing_is_left_of_a_model_that_cannot_be_written(
    english: tuple[LanguageModel, list[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = english[0]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"en\.h5: cannot be written"):
        model.save(tmp_path / "file" / "en.h5")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model.save(tmp_path / "en.h5")
    before = (tmp_path / "en.h5").read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"en\.h5: cannot be written .*No space left"):
        model.save(tmp_path / "en.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["en.h5", "file"]
    assert (tmp_path / "en.h5").read_bytes() == before


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = topics()
    lines = [json.dumps({"text": page}) for page in [*pages[:30], "half a pair: \ud800", "日本語"]]
    (tmp_path / "seed.jsonl").write_text("\n".join(lines))
    with StoreWriter(tmp_path / "crawl.h5", "key", "commoncrawl") as writer:
        writer.add([Document(page, "commoncrawl", str(n), "") for n, page in enumerate(pages)])
        writer.close()
    output = tmp_path / "models" / "en.h5"
    seed = [str(tmp_path / "seed.jsonl"), "--language", "en", "--vocabulary", "1000"]
    assert train_lm.main([*seed, "--output", str(output)]) == 0
    assert LanguageModel.load(output).cutoffs is None
    with pytest.raises(DataError, match="no cutoffs; measure them"):
        LanguageModel.load(output).buckets(np.array([1.0]))
    # Cutoffs may come later, without the seed text.
    assert train_lm.main(["--output", str(output), "--cutoffs", str(tmp_path / "crawl.h5")]) == 0
    model = LanguageModel.load(output)
    buckets = model.buckets(model.perplexity(sorted(set(pages))))
    shares = np.bincount(buckets, minlength=3) / len(buckets)
    assert shares == pytest.approx([0.3, 0.3, 0.4], abs=0.02)
    said = capsys.readouterr().out
    assert "seed:" in said
    assert "cutoffs: head below" in said


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "seed.txt: the seed text is not there"),
        ({"seed.txt": "a b"}, "seed text; a language model needs 100"),
        ({"seed.txt": "\0\0"}, "0 tokens of seed text"),
    ],
)
def test_what_cannot_be_is_said(
    files: dict[str, str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    output = tmp_path / "model.h5"
    arguments = [str(tmp_path / "seed.txt"), "--language", "en", "--output", str(output)]
    assert train_lm.main(arguments) == 1
    assert sentence in capsys.readouterr().err
    assert not output.exists()


def test_broken_seed_is_named(tmp_path: Path) -> None:
    (tmp_path / "seed.jsonl").write_text('{"text": "good"}\n{"txt": 1}\n')
    with pytest.raises(DataError, match=r"seed\.jsonl: line 2 is no JSON object with a key text"):
        list(Seed([tmp_path]).texts())
    (tmp_path / "seed.jsonl").unlink()
    with pytest.raises(DataError, match="holds no seed text"):
        Seed([tmp_path])
    (tmp_path / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(DataError, match="cannot be read"):
        list(Seed([tmp_path]).texts())


def test_a_sample_depends_on_the_documents_alone(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(200)]
    for name, part in (("a", texts[:50]), ("b", texts[50:]), ("c", texts[:120])):
        lines = [json.dumps({"text": text}) for text in part]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    one = Seed([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]).sample(20)
    other = Seed([tmp_path / "b.jsonl", tmp_path / "c.jsonl", tmp_path / "a.jsonl"]).sample(20)
    assert one == other
    assert len(set(one)) == 20
    assert set(one) != set(texts[:20])
    assert Seed([tmp_path / "b.jsonl"]).sample(20, key=1) != Seed([tmp_path / "b.jsonl"]).sample(20)
    assert sorted(Seed([tmp_path]).sample(1000)) == sorted(texts)
    part = list(Seed([tmp_path / "b.jsonl"]).part(0.2))
    assert 10 <= len(part) <= 60
    assert part == [text for text in texts[50:] if text in part]
    assert list(Seed([tmp_path / "b.jsonl"]).part(1)) == texts[50:]
