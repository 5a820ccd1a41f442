"""The mutants still fit the code that they break; `make mutants` sees whether each is caught."""

import pytest

from tests.mutants.__main__ import ROOT, applies, mutants, read

MUTANTS = mutants()


def test_there_are_mutants_of_each_area():
    assert sum(one.area == "keys" for one in MUTANTS) >= 14
    assert sum(one.area == "revocation" for one in MUTANTS) >= 20


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_a_mutant_applies_and_names_tests_that_exist(mutant):
    assert applies(mutant) == "", "the code has changed; make the patch again"
    for word in mutant.tests:
        path, _, name = word.partition("::")
        assert (ROOT / path).exists()
        assert not name or f"def {name}(" in (ROOT / path).read_text()


def test_a_patch_without_a_head_is_named(tmp_path):
    path = tmp_path / "x.patch"
    path.write_text("area: keys\n--- a/x\n+++ b/x\n")
    with pytest.raises(ValueError, match=r"x\.patch: its head lacks breaks"):
        read(path)
