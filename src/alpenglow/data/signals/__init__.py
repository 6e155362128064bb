"""Quality signals: columns of numbers beside documents, that filters read instead of the text.

`compute(documents, settings)` gives RedPajama v2's annotations that follow from text alone, with
its names (misspelt `rps_lines_ending_with_terminal_punctution_mark` as its schema has it) and its
definitions, and the shares and counts that the filters of RedPajama v1, Gopher, C4 and FineWeb cut
at. Everything is computed for a block of documents at once with numpy:

    Row      texts one behind another, a byte a character (rows, characters)
    Runs     white space, words, signs; Lines: where they begin and end (runs)
    columns  of raw words (tokens), lines (lines), normalised words (words), repetition

RedPajama v2 rounds to 8 decimals; these columns do not. Where it gives no number (a mean over no
words), they hold NaN.
"""

from alpenglow.data.signals.columns import compute
from alpenglow.data.signals.settings import SignalSettings

__all__ = ["SignalSettings", "compute"]
