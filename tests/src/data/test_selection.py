"""Which rules a slice has: presets, thresholds of all slices or of one, columns of models."""

from __future__ import annotations

from typing import Any

import pytest

from alpenglow.config import parse
from alpenglow.data.recipe import PrepareRecipe
from alpenglow.data.rule import Rule
from alpenglow.data.selection import of_slice


def rules_of(name: str, **tables: Any) -> dict[str, Rule]:
    slices = {"books": {}, "github": {}, "commoncrawl": {}} | tables.pop("slices", {})
    recipe = parse(PrepareRecipe, {"slices": slices, **tables}, "test")
    return {rule.name: rule for rule in of_slice(recipe, name)}


def test_a_general_threshold_holds_where_its_preset_does() -> None:
    filters = {"thresholds": {"a long line": {"most": 500}, "characters": {"least": 9}}}
    assert rules_of("github", filters=filters)["a long line"].most == 500
    books = rules_of("books", filters=filters)
    assert "a long line" not in books
    assert books["too short"].least == 9
    own = {"books": {"thresholds": {"too short": {"least": 7}}}}
    assert rules_of("books", filters=filters, slices=own)["too short"].least == 7


def test_what_names_no_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="no rule or column is named 'too shrt'; did you mean"):
        rules_of("books", filters={"thresholds": {"too shrt": {"least": 1}}})
    own = {"books": {"thresholds": {"a long line": {"most": 500}}}}
    with pytest.raises(ValueError, match="no rule or column is named 'a long line'"):
        rules_of("books", slices=own)
    with pytest.raises(ValueError, match="unknown preset 'gofer'; did you mean 'gopher'"):
        rules_of("books", slices={"books": {"presets": ["gofer"]}})


def test_a_rule_over_a_model_that_is_not_named_is_refused_before_anything_is_read() -> None:
    faithful = {"commoncrawl": {"mode": "faithful"}}
    with pytest.raises(ValueError, match="ccnet_bucket: name the model that gives it"):
        rules_of("commoncrawl", slices=faithful)
    models: dict[str, Any] = {"language_model": "lm.h5"}
    with pytest.raises(ValueError, match="rps_doc_ml_wikiref_score: name the model"):
        rules_of("commoncrawl", slices=faithful, models=models)
    models["classifiers"] = {"wikiref": "c.h5"}
    assert "redpajama: perplexity" in rules_of("commoncrawl", slices=faithful, models=models)
    # Rules over what a user may bring, or not, are passed over.
    assert rules_of("books", slices={"books": {"presets": ["toxicity"]}})
