"""Classifiers: what v1's way would have learnt and ours does not, scores by another road, files."""

from __future__ import annotations

import ast
import itertools
import json
import math
import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from alpenglow.data import classifier_training, train_classifier
from alpenglow.data.classifier import BUCKETS, Classifier
from alpenglow.data.classifier_training import ClassifierSettings, Side, area, same_lengths, train
from alpenglow.data.document import DataError, Document
from alpenglow.data.importance import Importance
from alpenglow.data.language_model import LanguageModel
from alpenglow.data.language_model_training import LanguageModelSettings, measure_cutoffs
from alpenglow.data.language_model_training import train as train_language_model
from alpenglow.data.models import Models, ModelSettings
from alpenglow.data.seed_text import Seed
from alpenglow.data.word_grams import WordGrams

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

WORDS = [first + second for first, second in itertools.product(
    ("ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu"), ("lar", "ten", "sim", "rod")
)]  # fmt: skip


def seed(path: Path, texts: list[str]) -> Seed:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Seed([path])


def page(rng: random.Random, words: int, menu: str = "") -> str:
    return f"{menu} {' '.join(rng.choices(WORDS, k=words))}".strip()


def english() -> tuple[list[str], list[str]]:
    """Real text: pages on Python's language, and what its library says of itself."""
    from pydoc_data import topics

    pages = [text for text in topics.topics.values() if len(text) > 300]
    said = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                said.append(ast.get_docstring(node) or "")
    paragraphs = [part for text in pages for part in text.split("\n\n") if len(part) > 200]
    if not paragraphs:
        pytest.skip("this Python has no pydoc topics")
    return paragraphs, [text for text in said if len(text) > 200]


def test_length_is_no_shortcut(tmp_path: Path) -> None:
    """Pages begin with the same menu, so its share tells how long a page is, and nothing else."""
    rng = random.Random(0)
    menu = "home login contact terms privacy about"
    positives = [page(rng, rng.randint(200, 400), menu) for _ in range(800)]
    negatives = [page(rng, rng.randint(25, 60), menu) for _ in range(800)]
    # v1's way: a floor under positives alone, and pages as they are.
    grams = WordGrams(BUCKETS)
    sides = [Side(*grams.words([text for text in positives if len(text) >= 1000]))]
    sides.append(Side(*grams.words(negatives)))
    count = min(len(side.counts) for side in sides)
    every = np.arange(count)
    sides = [side.take(every, side.counts[:count]) for side in sides]
    train_on = every < count * 9 // 10
    weights, bias = classifier_training._fit(grams, sides[0], sides[1], train_on)
    found = [classifier_training._scores(grams, s, weights, bias)[~train_on] for s in sides]
    assert area(*found) > 0.95
    # The same pages here.
    model = train(
        seed(tmp_path / "p.jsonl", positives), seed(tmp_path / "n.jsonl", negatives),
        ClassifierSettings("menu"),
    )  # fmt: skip
    assert model.about["area_by_length_before"] == 1.0
    assert model.about["area_by_length"] == 0.5
    assert model.about["area"] == pytest.approx(0.5, abs=0.15)
    login = grams.singles(grams.words(["login"])[0])
    assert abs(float(model.weights[login][0])) < abs(float(weights[login][0])) / 5


def test_both_sides_get_the_same_lengths() -> None:
    rng = np.random.default_rng(0)
    sides = []
    for high, pages in ((900, 70), (90, 50)):
        counts = rng.integers(20, high, pages)
        # Each word says of which page it is and which of its words.
        words = np.concatenate([k * 1000 + np.arange(n) for k, n in enumerate(counts)])
        sides.append(Side(words.astype(np.uint64), counts))
    first, second = same_lengths(*sides)
    assert (first.counts == second.counts).all()
    assert len(first.counts) == 50
    for side in (first, second):
        begin = np.cumsum(side.counts) - side.counts
        for at, count in zip(begin, side.counts, strict=True):
            own = side.words[at : at + count]
            assert (own == own[0] + np.arange(count, dtype=np.uint64)).all()
            assert own[0] % np.uint64(1000) == 0  # the beginning of its page


def test_copies_count_once_and_texts_of_both_sides_not(tmp_path: Path) -> None:
    rng = random.Random(1)
    positives = [page(rng, 40, "alpha") for _ in range(60)]
    negatives = [page(rng, 40, "omega") for _ in range(60)]
    shared = [page(rng, 40, "beta") for _ in range(7)]
    model = train(
        seed(tmp_path / "p.jsonl", [*positives[:1] * 500, *positives, *shared]),
        seed(tmp_path / "n.jsonl", [*negatives * 2, *shared]),
        ClassifierSettings("copies"),
    )
    assert model.about["pages"] == 60
    assert model.about["on_both_sides"] == 7


def test_samples_are_random_not_the_first(tmp_path: Path) -> None:
    rng = random.Random(2)
    positives = [page(rng, 40, "alpha alpha alpha") for _ in range(400)]
    # The first fifth of the crawl is of another kind, as a file sorted by site may be.
    negatives = [" ".join(["gallery"] * 40 + [str(k)]) for k in range(80)]
    negatives += [page(rng, 40, "omega omega omega") for _ in range(320)]
    model = train(
        seed(tmp_path / "p.jsonl", positives), seed(tmp_path / "n.jsonl", negatives),
        ClassifierSettings("first", pages=80),
    )  # fmt: skip
    omega = model.weights[WordGrams(BUCKETS).singles(WordGrams(BUCKETS).words(["omega"])[0])[0]]
    assert omega < -1
    assert model.about["accuracy"] == 1.0


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    folder = tmp_path_factory.mktemp("classifier")
    pages, said = english()
    settings = ClassifierSettings("language", pages=1500)
    model = train(seed(folder / "p.jsonl", pages), seed(folder / "n.jsonl", said), settings)
    model.save(folder / "model.h5")
    return model, folder


def test_real_text_is_told_apart(real: tuple[Classifier, Path]) -> None:
    model, _ = real
    assert model.about["held_out"] > 50
    assert model.about["area"] > 0.9
    assert model.about["accuracy"] > 0.8


def test_scores_are_those_of_the_definition(real: tuple[Classifier, Path]) -> None:
    model, _ = real
    grams = WordGrams(BUCKETS)
    texts = [
        "An object's type is accessed by the built-in function type().",
        "x",
        "Größe: 3\n\nZwei",
    ]
    for text, score in zip(texts, model.scores(texts), strict=True):
        words, counts = grams.words([text])
        total = sum(float(model.weights[bucket]) for bucket in grams.singles(words))
        total += sum(float(model.weights[bucket]) for bucket in grams.pairs(words))
        logit = total / (2 * int(counts[0]) - 1) + model.bias
        assert score == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
    assert list(grams.words(["An object's type()."])[1]) == [6]
    same, joined = model.scores(["one line\nand another", "one line and another"])
    assert same == joined
    assert np.isnan(model.scores(["", " \n"])).all()
    long = " ".join(["the value of an expression"] * 300_000)  # in pieces
    assert model.scores([long])[0] == pytest.approx(
        model.scores(["the value of an expression " * 2000])[0], abs=1e-3
    )


def test_pairs_do_not_reach_from_one_text_to_the_next() -> None:
    grams = WordGrams(1 << 16)
    texts = ["a b", "", "c", "d e f", ""]
    weights = np.random.default_rng(0).random(1 << 16).astype(np.float32)
    together, counts = grams.sums(texts, weights)
    assert counts.tolist() == [3, 0, 1, 5, 0]
    alone = [float(grams.sums([text], weights)[0][0]) for text in texts]
    assert together == pytest.approx(alone)
    assert grams.counts(texts).sum() == counts.sum()


def test_same_texts_same_file(real: tuple[Classifier, Path], tmp_path: Path) -> None:
    _, folder = real
    for side in ("p", "n"):
        lines = (folder / f"{side}.jsonl").read_text().splitlines()
        (tmp_path / f"{side}.jsonl").write_text("\n".join(reversed(lines)))
    settings = ClassifierSettings("language", pages=1500)
    again = train(Seed([folder / "p.jsonl"]), Seed([folder / "n.jsonl"]), settings)
    again.save(tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == (folder / "model.h5").read_bytes()
    turned = train(Seed([tmp_path / "p.jsonl"]), Seed([tmp_path / "n.jsonl"]), settings)
    assert (turned.weights == again.weights).all()
    loaded = Classifier.load(folder / "model.h5")
    assert loaded.name == "language"
    assert (loaded.scores(["a b c"]) == again.scores(["a b c"])).all()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(3)
    for name, menu in (("p", "alpha"), ("n", "omega")):
        seed(tmp_path / f"{name}.jsonl", [page(rng, 50, menu) for _ in range(80)])
    output = tmp_path / "models" / "toxicity.h5"
    arguments = ["--name", "toxicity", "--positives", str(tmp_path / "p.jsonl"), "--negatives"]
    arguments += [str(tmp_path / "n.jsonl"), "--output", str(output)]
    assert train_classifier.main(arguments) == 0
    said = capsys.readouterr().out
    assert "80 pages of each side" in said
    assert "cut to the same lengths, with 0.500" in said
    assert "held out (8 pages of each side): accuracy" in said
    assert Classifier.load(output).about["positives"][0]["documents"] == 80
    seed(tmp_path / "n.jsonl", ["too short"] * 30)
    assert train_classifier.main([*arguments[:-1], str(tmp_path / "other.h5")]) == 1
    assert "n.jsonl: 0 different pages of 20 words or more" in capsys.readouterr().err
    assert not (tmp_path / "other.h5").exists()
    arguments[1] = "no name"
    assert train_classifier.main(arguments) == 1
    assert "should be letters, digits and underscores" in capsys.readouterr().err


def test_models_of_a_recipe(real: tuple[Classifier, Path], tmp_path: Path) -> None:
    classifier, folder = real
    texts = [Seed([folder / f"{side}.jsonl"]) for side in ("p", "n")]
    language_model = train_language_model(texts[0], LanguageModelSettings("en", vocabulary=1000))
    language_model.save(tmp_path / "en.h5")
    Importance.train("docs", texts[0], texts[1]).save(tmp_path / "docs.h5")
    settings = ModelSettings(
        tmp_path / "en.h5", {"language": folder / "model.h5"}, {"docs": tmp_path / "docs.h5"}
    )
    before = settings.hash
    documents = [
        Document(text, "c4", "", "") for text in ("A function is called.", "", "Call it twice.")
    ]
    columns = Models(settings).compute(documents)
    names = ["ccnet_perplexity", "rps_doc_ml_language_score", "rps_doc_docs_importance"]
    assert list(columns) == names == list(settings.columns)
    assert all(column.shape == (3,) for column in columns.values())
    score = classifier.scores(["A function is called."])[0]
    assert columns["rps_doc_ml_language_score"][0] == score
    assert np.isnan(columns["ccnet_perplexity"][1])
    measure_cutoffs(language_model, texts[1])
    language_model.save(tmp_path / "en.h5")
    assert settings.hash != before  # the same names, another content
    buckets = Models(settings).compute(documents)["ccnet_bucket"]
    assert buckets[1] == 2
    assert set(buckets) <= {0, 1, 2}
    assert Models(ModelSettings()).compute(documents) == {}
    assert [len(column) for column in Models(settings).compute([]).values()] == [0] * 4
    with pytest.raises(DataError, match="a classifier, where a language model is asked for"):
        Models(ModelSettings(language_model=folder / "model.h5"))
    with pytest.raises(DataError, match=r"absent\.h5: the classifier is not there; train it with"):
        Models(ModelSettings(classifiers={"x": tmp_path / "absent.h5"}))
    with pytest.raises(DataError, match=r"absent\.h5: the model cannot be read"):
        _ = ModelSettings(classifiers={"x": tmp_path / "absent.h5"}).hash
    with pytest.raises(ValueError, match="'no name' should be letters"):
        ModelSettings(classifiers={"no name": tmp_path})
    assert isinstance(LanguageModel.load(tmp_path / "en.h5").cutoffs, tuple)
