"""The tables of a ledger's report."""

from __future__ import annotations

from collections.abc import Mapping

from alpenglow.data.ledger import STAGES, Count, SliceLedger, Stage
from alpenglow.data.published_counts import source, values
from alpenglow_analysis.data_report_words import named, stage_word
from alpenglow_analysis.page import Block, Note, Table
from alpenglow_analysis.units import count, percent, size

Accounts = Mapping[str, SliceLedger]


def overview_table(accounts: Accounts) -> list[Block]:
    """Slice by slice: read, what each stage took, kept; documents, then bytes, then tokens."""
    stages = stage_names(accounts)
    heads = ["", "read", *(f"− {stage_word(name)}" for name in stages), "kept", "of read"]
    blocks: list[Block] = []
    for unit, write in (("documents", count), ("bytes", size), ("tokens", count)):
        rows = []
        for name, account in accounts.items():
            rows.append([named(name), *_overview(account, stages, unit)])
        if len(rows) > 1:
            rows.append(["All slices", *_total(accounts, stages, unit)])
        cells = [
            [row[0], *(write(cell) if isinstance(cell, int) else cell for cell in row[1:])]
            for row in rows
        ]
        if unit == "tokens" and not any(account.kept.tokens for account in accounts.values()):
            continue
        table = Table(
            [unit.capitalize(), *heads[1:]], [[str(c) for c in row] for row in cells],
            sum=len(rows) > 1,
        )  # fmt: skip
        blocks.append(table)
    return blocks


def stage_names(accounts: Accounts) -> list[str]:
    """Stages that occur, in order."""
    there = dict.fromkeys(stage.name for account in accounts.values() for stage in account.stages)
    return [name for name in STAGES if name in there] + [n for n in there if n not in STAGES]


def _overview(account: SliceLedger, stages: list[str], unit: str) -> list[int | str]:
    first = next((s for s in account.stages if getattr(s.read, unit)), None)
    if first is None:
        # Nothing was read, or tokens begin with what a stage kept.
        return ["0" if unit != "tokens" else "", *[""] * len(stages), "0", ""]
    cells: list[int | str] = [getattr(first.read, unit)]
    for name in stages:
        stage = next((s for s in account.stages if s.name == name), None)
        counted = stage is not None and (unit != "tokens" or stage.read.tokens)
        lost = getattr(stage.read, unit) - getattr(stage.kept, unit) if stage else 0
        cells.append(lost if counted else "")
    kept = getattr(account.kept, unit)
    return [*cells, kept, share(kept, getattr(first.read, unit))]


def _total(accounts: Accounts, stages: list[str], unit: str) -> list[int | str]:
    rows = [_overview(account, stages, unit) for account in accounts.values()]
    cells: list[int | str] = []
    for column in list(zip(*rows, strict=True))[:-1]:
        numbers = [cell for cell in column if isinstance(cell, int)]
        cells.append(sum(numbers) if numbers else "")
    read, kept = cells[0], cells[-1]
    return [*cells, share(kept, read) if isinstance(read, int) and isinstance(kept, int) else ""]


def rules_table(account: SliceLedger) -> Table:
    """Stage by stage and rule by rule: what came in, what was dropped, and its share."""
    heads = [
        "", "documents in", "lost", "share", "bytes in", "lost", "share", "tokens in", "lost",
        "share",
    ]  # fmt: skip
    rows: list[list[str]] = []
    for stage in account.stages:
        lost = stage.read.less(stage.kept)
        title = stage_word(stage.name)
        rows.append([title[0].upper() + title[1:], *_cells(stage, stage.read, lost)])
        for passage in stage.passages():
            rows.append([f"· {passage.rule}", *_cells(stage, passage.read, passage.dropped)])
        if stage.trimmed:
            taken = Count.sum(stage.trimmed.values())
            taken = Count(0, taken.bytes, taken.tokens)  # a shortened document goes on
            left = Count.sum([stage.kept, taken])
            rows.append(["· taken out of texts", *_cells(stage, left, taken)])
    kept, read = account.kept, account.read
    tokens_read = next((s.read.tokens for s in account.stages if s.read.tokens), 0)
    rows.append(
        [
            "Kept",
            count(kept.documents), "", share(kept.documents, read.documents),
            size(kept.bytes), "", share(kept.bytes, read.bytes),
            count(kept.tokens) if kept.tokens else "", "", share(kept.tokens, tokens_read),
        ]
    )  # fmt: skip
    return Table(heads, rows, sum=True)


def _cells(stage: Stage, given: Count, lost: Count) -> list[str]:
    cells = [
        count(given.documents), count(lost.documents), share(lost.documents, given.documents),
        size(given.bytes), size(lost.bytes), share(lost.bytes, given.bytes),
    ]  # fmt: skip
    if not stage.read.tokens:
        return [*cells, "", "", ""]
    return [*cells, count(given.tokens), count(lost.tokens), share(lost.tokens, given.tokens)]


def share(part: int, whole: int) -> str:
    """A part's share, empty of nothing; less than all of it never reads as all."""
    if not whole:
        return ""
    text = percent(part / whole)
    return "> 99.9\u00a0%" if part < whole and text == percent(1.0) else text


def comparison_table(accounts: Accounts) -> Table:
    """Tokens by slice beside RedPajama's and LLaMA's; a slice that is not here has empty cells."""
    redpajama, llama = values("redpajama", "tokens"), values("llama", "tokens")
    weights = values("llama", "mixture")
    ours = {name: account.kept for name, account in accounts.items()}
    total = sum(each.tokens for each in ours.values())
    all_redpajama, all_llama = sum(redpajama.values()), sum(llama.values())
    rows = []
    for name in dict.fromkeys([*redpajama, *accounts]):
        kept = ours.get(name, Count())
        row = [named(name), count(kept.tokens) if kept.tokens else "none"]
        row += [share(kept.tokens, total)]
        if name in redpajama:
            row += [
                count(redpajama[name]), percent(redpajama[name] / all_redpajama),
                percent(kept.tokens / redpajama[name]),
                count(llama[name]), percent(llama[name] / all_llama), percent(weights[name]),
            ]  # fmt: skip
        else:
            row += [""] * 6
        rows.append(row)
    kept = Count.sum(ours.values())
    rows.append(
        [
            "All slices", count(kept.tokens), percent(1.0) if kept.tokens else "",
            count(all_redpajama), percent(1.0), percent(kept.tokens / all_redpajama),
            count(all_llama), percent(1.0), percent(1.0),
        ]
    )  # fmt: skip
    heads = [
        "", "tokens here", "share", "RedPajama", "share", "here / RedPajama", "LLaMA", "share",
        "its mixture",
    ]  # fmt: skip
    return Table(heads, rows, sum=True)


def published_table(accounts: Accounts) -> list[Block]:
    """What duplicates cost beside what SlimPajama kept; bytes a token beside RedPajama's."""
    before, after = values("slimpajama_before", "bytes"), values("slimpajama_kept", "bytes")
    before_documents = values("slimpajama_before", "documents")
    after_documents = values("slimpajama_kept", "documents")
    redpajama = values("redpajama", "tokens")
    rows = []
    for name, account in accounts.items():
        stage = next((s for s in account.stages if s.name == "duplicates"), Stage("duplicates"))
        kept = account.kept
        if name in before:
            rows.append(
                [
                    named(name),
                    share(stage.kept.documents, stage.read.documents),
                    percent(after_documents[name] / before_documents[name]),
                    share(stage.kept.bytes, stage.read.bytes),
                    percent(after[name] / before[name]),
                    f"{kept.bytes / kept.tokens:.2f}" if kept.tokens else "",
                    f"{before[name] / redpajama[name]:.2f}",
                ]
            )
    heads = [
        "", "documents without duplicates", "in SlimPajama", "bytes without duplicates",
        "in SlimPajama", "bytes a token", "in RedPajama",
    ]  # fmt: skip
    sources = (
        f"RedPajama: {source('redpajama')}; its bytes are those that SlimPajama began with. LLaMA: "
        f"{source('llama')}. SlimPajama: {source('slimpajama_kept')}; it removed near duplicates "
        "of RedPajama's text (MinHash, 13-character shingles) and short documents, so it keeps "
        "less than a search for equal texts can."
    )
    return [*([Table(heads, rows)] if rows else []), Note(sources)]


def licences_table(accounts: Accounts) -> Table:
    """Of what was kept, most bytes first within a slice."""
    rows = []
    for name, account in accounts.items():
        for licence, held in sorted(account.licences.items(), key=lambda i: (-i[1].bytes, i[0])):
            rows.append(
                [
                    named(name), licence or "not stated", count(held.documents), size(held.bytes),
                    share(held.bytes, account.kept.bytes),
                    count(held.tokens) if held.tokens else "",
                ]
            )  # fmt: skip
    heads = ["", "licence", "documents", "bytes", "of the slice", "tokens"]
    return Table(heads, rows, text=frozenset({1}))


def trimmed_table(accounts: Accounts) -> Table:
    """Rule by rule: documents that were shortened and bytes that went."""
    rows = [
        [
            named(name), stage_word(stage.name), rule, count(taken.documents), size(taken.bytes),
            share(taken.bytes, account.read.bytes),
        ]
        for name, account in accounts.items()
        for stage in account.stages
        for rule, taken in sorted(stage.trimmed.items(), key=lambda item: -item[1].bytes)
    ]  # fmt: skip
    heads = ["", "stage", "rule", "documents shortened", "bytes taken out", "of bytes read"]
    return Table(heads, rows, text=frozenset({1, 2}))
