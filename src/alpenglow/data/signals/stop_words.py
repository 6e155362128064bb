"""Stop words: words so common in a language that running text cannot do without them."""

from __future__ import annotations

GOPHER = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Of which a document has to hold two (Rae et al. 2021, section A.1.1)."""

_ENGLISH = """
    a about above after again against all also am an and any are aren as at be because been before
    being below between both but by can could couldn did didn do does doesn doing don down during
    each else few for from further had hadn has hasn have haven having he her here hers herself him
    himself his how i if in into is isn it its itself just ll may me might more most must my myself
    no nor not now of off on once only or other our ours ourselves out over own re s same shall she
    should shouldn since so some such t than that the their theirs them themselves then there these
    they this those though through to too under until up upon us ve very was wasn we were weren
    what when where which while who whom whose why will with within without won would wouldn yet
    you your yours yourself yourselves
"""
ENGLISH = tuple(_ENGLISH.split())
"""English, and the parts that a contraction leaves when its apostrophe is a word of its own; other
languages bring a file."""
