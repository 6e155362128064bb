"""Signals of lines, and of documents by their lines.

RedPajama v2's (app/src/core/quality_signals/lines.py of its repository) look at lines that U+000A
ends. The shares that Gopher (Rae et al. 2021, Table A1), C4 (Raffel et al. 2020, section 2.2),
FineWeb (Penedo et al. 2024, section 3.6) and RedPajama v1's GitHub filter cut at follow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpenglow.data.signals.characters import (
    BULLET,
    ELLIPSIS,
    QUOTE,
    STOP,
    UPPER,
    alphabet,
)
from alpenglow.data.signals.hashes import Groups, Places, add_wide, mix, pieces, salts
from alpenglow.data.signals.rows import Row, share, totals
from alpenglow.data.signals.runs import Lines, Runs

Columns = dict[str, NDArray[Any]]

POLICY = (b"terms of use", b"privacy policy")
COOKIES = (b"cookie policy", b"uses cookies", b"use of cookies", b"use cookies")
"""C4 removes lines with these (T5's `c4_utils`, read in 2020's release)."""
SHORT_LINE = 30
"""Characters of a short line (FineWeb)."""
C4_WORDS = 5
"""Words that C4's builder asks of a line (c4_utils.py of TensorFlow Datasets; the paper says 3)."""
PROSE_WORDS = 4


class LineSignals:
    """All that is computed from the lines of one row."""

    def __init__(self, row: Row, runs: Runs, words: Places, characters: Places) -> None:
        """Find the lines.

        Args:
            row: the texts.
            runs: of it.
            words: normalised words before each U+000A of the row.
            characters: their characters before each word; shape (words + 1,).
        """
        self.row = row
        self.lines = Lines.at_newlines(row, runs)
        self.split = Lines.at_all_breaks(row, runs, self.lines)
        number = self.lines.number
        before = np.concatenate(([0], words))[number]
        self.words = words[number] - before
        self.normalised = characters[words[number]] - characters[before]
        self.normalised += np.maximum(self.words - 1, 0)
        self.digits = np.flatnonzero((row.row - np.uint8(ord("0"))) < 10)
        self._lowered = row.data.lower()

    def _count(self, places: Places) -> Places:
        """Count ascending places in each line."""
        bounds = np.searchsorted(places, self.lines.ends)
        return np.diff(bounds, prepend=0)

    def _ends_with(self, characters: str, bit: int) -> NDArray[np.bool_]:
        """Tell which lines' last character is one of ASCII, or has a bit."""
        last = self.row.row[self.lines.last]
        found = np.zeros(last.size, np.bool_)
        for character in characters:
            found |= last == ord(character)
        found &= ~self.lines.blank
        self._mark(found, self.lines.last, self.row.having(bit))
        return found

    def _mark(self, found: NDArray[np.bool_], where: Places, places: Places) -> None:
        line = self.lines.of_places(places)
        found[line[where[line] == places]] = True

    def _ellipsis(self) -> NDArray[np.bool_]:
        row, last = self.row.row, self.lines.last
        dots: NDArray[np.bool_] = last >= self.lines.begins + 2
        for back in range(3):
            dots &= row[np.maximum(last - back, 0)] == ord(".")
        self._mark(dots, last, self.row.having(ELLIPSIS))
        return dots

    def _bullets(self) -> NDArray[np.bool_]:
        found = np.zeros(self.lines.begins.size, np.bool_)
        self._mark(found, self.lines.first, self.row.having(BULLET))
        return found

    def _holding(self, phrases: tuple[bytes, ...]) -> NDArray[np.bool_]:
        found = np.zeros(self.lines.begins.size, np.bool_)
        for phrase in phrases:
            place = self._lowered.find(phrase)
            while place >= 0:
                line = int(np.searchsorted(self.lines.ends, place))
                found[line] = True
                place = self._lowered.find(phrase, int(self.lines.ends[line]))
        return found

    def columns(self, javascript: Places) -> Columns:
        """Return RedPajama v2's columns of lines; shape (lines,) each.

        Args:
            javascript: normalised words that are "javascript", ascending, by the U+000A that
                ends their line.
        """
        row, lines = self.row, self.lines
        upper = np.flatnonzero(row.classes & np.uint8(UPPER))
        numeric = self._count(self.digits)
        if row.wide.size:
            numerics = alphabet().numerics(row.codes)
            which = np.flatnonzero(numerics)
            if which.size:
                line = lines.of_places(row.wide[which])
                numeric += np.bincount(line, numerics[which], numeric.size).astype(np.int64)
        counts = np.searchsorted(javascript, lines.number, "right") - np.searchsorted(
            javascript, lines.number
        )
        return {
            "rps_lines_ending_with_terminal_punctution_mark": self._ends_with(".!?", QUOTE).astype(
                np.uint8
            ),
            "rps_lines_javascript_counts": counts.astype(np.uint32),
            "rps_lines_num_words": self.words.astype(np.uint32),
            "rps_lines_numerical_chars_fraction": share(numeric, self.normalised).astype(
                np.float32
            ),
            "rps_lines_start_with_bulletpoint": self._bullets().astype(np.uint8),
            "rps_lines_uppercase_letter_fraction": share(
                self._count(upper), lines.ends - lines.begins + lines.broken
            ).astype(np.float32),
        }

    def documents(self, sentences: Places) -> Columns:
        """Return columns of documents; shape (texts,) each.

        Args:
            sentences: ends of sentences (`TokenSignals.sentence_ends`), none across lines.
        """
        row, lines, split = self.row, self.lines, self.split
        sizes = row.ends - row.begins
        count = np.diff(lines.offset)
        ellipsis = self._ellipsis()
        inked = ~lines.blank
        filled = totals(inked, lines.offset)
        lengths = lines.ends - lines.begins
        javascript = self._holding((b"javascript",))
        policy = self._holding(POLICY)
        if b"cookie" in self._lowered:
            policy |= self._holding(COOKIES)
        c4 = self._ends_with('.!?"', 0) & ~ellipsis & (lines.words >= C4_WORDS)
        c4 &= ~javascript & ~policy
        in_line = np.diff(np.searchsorted(sentences, lines.ends, side="right"), prepend=0)
        terminal = self._ends_with(".!?\"'", STOP)
        split_lengths = split.ends - split.begins
        longest = np.zeros(sizes.size, np.int64)
        some = np.flatnonzero(np.diff(split.offset))
        if some.size:
            longest[some] = np.maximum.reduceat(split_lengths, split.offset[some])
        split_count = np.diff(split.offset)
        split_filled = totals(~split.blank, split.offset)
        columns: Columns = {
            "rps_doc_frac_lines_end_with_ellipsis": share(
                totals(ellipsis, lines.offset), count, np.nan
            ),
            "prose_line_share": share(
                totals(split.words >= PROSE_WORDS, split.offset), split_filled
            ),
            "longest_line": longest,
            "mean_line_length": share(sizes, split_count),
            "bullet_line_share": share(totals(self._bullets(), lines.offset), filled),
            "terminal_line_share": share(totals(terminal, lines.offset), filled),
            "short_line_share": share(
                totals(inked & (lengths <= SHORT_LINE), lines.offset), filled
            ),
            "javascript_lines": totals(javascript, lines.offset),
            "policy_lines": totals(policy, lines.offset),
            "c4_line_share": share(totals(c4, lines.offset), filled),
            "c4_sentences": totals(np.where(c4, in_line, 0), lines.offset),
        }
        newlines = totals(lines.broken, lines.offset)
        columns |= self._repeated(sizes, newlines)
        return columns

    def _repeated(self, sizes: Places, newlines: Places) -> Columns:
        """Return shares of lines and paragraphs that stood before in their document."""
        row, lines = self.row, self.lines
        texts = sizes.size
        text = np.repeat(np.arange(texts), np.diff(lines.offset))
        inked = np.flatnonzero(~lines.blank)
        hashes = pieces(row.data, lines.begins, lines.ends)
        add_wide(hashes, lines.begins, row.wide, row.codes)
        hashes, text = hashes[inked], text[inked]
        lengths = (lines.ends - lines.begins)[inked]
        own = salts(texts)[text]
        again = Groups.of(hashes ^ own).again if inked.size else inked
        line_count = np.bincount(text, minlength=texts)
        line_again = np.bincount(text[again], minlength=texts)
        line_characters = np.bincount(text[again], lengths[again], texts)
        # A paragraph: lines one below another without a blank one or a text's end between.
        opens = np.ones(inked.size, np.bool_)
        opens[1:] = (np.diff(inked) > 1) | (text[1:] != text[:-1])
        begin = np.flatnonzero(opens)
        end = np.append(begin[1:], inked.size)
        inside = np.arange(inked.size) - np.repeat(begin, end - begin)
        terms = mix(hashes + mix(inside.astype(np.uint64)))
        paragraph = np.add.reduceat(terms, begin) if begin.size else terms
        again = Groups.of(mix(paragraph) ^ own[begin]).again if begin.size else begin
        places = inked[end - 1] if begin.size else begin
        spans = lines.ends[places] - lines.begins[inked[begin]]
        paragraph_text = text[begin]
        paragraph_count = np.bincount(paragraph_text, minlength=texts)
        paragraph_again = np.bincount(paragraph_text[again], minlength=texts)
        paragraph_characters = np.bincount(paragraph_text[again], spans[again], texts)
        return {
            "duplicate_line_share": share(line_again, line_count),
            "duplicate_line_characters": share(line_characters, sizes),
            "duplicate_line_characters_of_lines": share(line_characters, sizes - newlines),
            "duplicate_paragraph_share": share(paragraph_again, paragraph_count),
            "duplicate_paragraph_characters": share(paragraph_characters, sizes),
        }
