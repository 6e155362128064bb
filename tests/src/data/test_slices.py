"""The seven slices: one shape, real input read right, absent input said in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpenglow.data import slices
from alpenglow.data.document import Document, InputAbsent
from alpenglow.data.recipe import SLICES, SliceRecipe
from alpenglow.data.slices import commoncrawl, github, installed
from alpenglow.data.slices.source import Source


def source(name: str, root: Path, **changes: object) -> Source:
    recipe = SliceRecipe(input=root, **changes)  # type: ignore[arg-type]
    return Source.of(name, recipe, unit_bytes=1_000_000)


def read(name: str, root: Path, **changes: object) -> list[Document]:
    module = slices.of_name(name)
    units = module.units(source(name, root, **changes))
    return [document for unit in units for document in module.read(unit, SliceRecipe())]


@pytest.mark.parametrize("name", SLICES)
def test_shape(name: str, tmp_path: Path) -> None:
    module = slices.of_name(name)
    assert name == module.NAME
    assert module.NEEDS.startswith("it reads ")
    absent = tmp_path / "absent"
    with pytest.raises(InputAbsent, match=f"{name}: .*absent is not there; it reads"):
        module.units(source(name, absent))
    with pytest.raises(InputAbsent, match=f"{name}: .* holds no file with ending"):
        module.units(source(name, tmp_path))


@pytest.mark.parametrize("name", ["c4", "books", "arxiv", "stackexchange"])
def test_an_origin_that_a_slice_does_not_know(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputAbsent, match="'installed' is not known to this slice"):
        slices.of_name(name).units(source(name, tmp_path, origin="installed"))


def test_installed_sources_have_a_licence_and_no_overlap(tmp_path: Path) -> None:
    units = github.units(source("github", tmp_path, origin="installed", max_bytes=2_000_000))
    inputs = [item for unit in units for item in unit.inputs]
    assert 2_000_000 <= sum(item.size for item in inputs) < 12_000_000
    assert len({item.source.partition("/")[0] for item in inputs}) > 10
    assert sum(item.licence != "not stated" for item in inputs) > 0.9 * len(inputs)
    pages = commoncrawl.units(
        source("commoncrawl", tmp_path, origin="installed", max_bytes=4_000_000)
    )
    shared = {item.path for item in inputs} & {i.path for unit in pages for i in unit.inputs}
    assert not shared


def test_installed_packages_licence() -> None:
    found = {item.source.partition("/")[0].rpartition("-")[0]: item for item in installed.files()}
    assert found["click"].licence == "BSD-3-Clause"
    assert found["cpython"].licence == "PSF-2.0"
    assert "alpenglow" not in found
