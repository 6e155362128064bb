"""Performance of a proposal: a step in parts, MFU and HFU, scaling tables, validation."""

from __future__ import annotations

from functools import lru_cache

from alpenglow.parallel import validation
from alpenglow_analysis.chosen_layout import Chosen
from alpenglow_analysis.document import Block, Grid, Paragraph, Picture
from alpenglow_analysis.marked import Formula, Line, Mark, Value, line, say
from alpenglow_analysis.proposal_scaling import Series

MODEL_FLOPS = Formula(
    "F = 72 l h^2 (1 + s/(6h) + V/(12 l h))",
    r"F = 72\,l h^2 \left(1 + \frac{s}{6h} + \frac{V}{12\,l h}\right)",
)
MFU = Formula(
    "MFU = F x tokens/s / (GPUs x peak)",
    r"\mathrm{MFU} = F \cdot \mathrm{tokens/s} \,/\, (\mathrm{GPUs} \cdot \mathrm{peak})",
)


def step_source(chosen: Chosen) -> str:
    """Where a predicted second is from."""
    own = chosen.run.calibration
    sure = (
        "no calibration: the machine file alone"
        if own is None
        else f"calibration measured in {own.source}"
    )
    return (
        f"alpenglow.parallel.step_cost: {chosen.words} ({chosen.source}), "
        f"env/machines/{chosen.run.machine.name}.toml; {sure}"
    )


def step_error(chosen: Chosen) -> Value:
    """The interval of a predicted step."""
    error = chosen.run.error
    own = chosen.run.calibration
    if own is None:
        return Value(
            f"± {100 * error:.3g} %", "A",
            "assumed for a machine that was not measured: rows of alpenglow.parallel.validation "
            "that set no constant are off by less, but strong scaling by more tensor ranks", error,
        )  # fmt: skip
    return Value(f"± {100 * error:.3g} %", "M", f"calibration, {own.source}", error)


def performance_blocks(chosen: Chosen) -> list[Block]:
    """A step, its parts, and the shares of the peak."""
    cost, source = chosen.cost, step_source(chosen)
    peak_key = f"env/machines/{chosen.run.machine.name}.toml: peak_flops.{chosen.work.dtype}"

    def of(text: str, number: float | None = None, mark: Mark = "P", why: str = source) -> Value:
        return Value(text, mark, why, number)

    text = say(
        "A step of {tokens} tokens takes {step} ({error}), which is {rate} tokens/s or {flops} a "
        "GPU. {MFU} = {mfu} of {peak} a GPU, with {F} model FLOPs a token (l layers, width h, "
        "sequence s, vocabulary V), recomputation not counted. HFU counts it too: {hfu}.",
        tokens=of(f"{cost.tokens:,}", cost.tokens, why="computed: sequences x tokens of one"),
        step=of(f"{cost.seconds:.3g} s", cost.seconds), error=step_error(chosen),
        rate=of(f"{cost.tokens_per_second:,.0f}", cost.tokens_per_second),
        flops=of(f"{cost.model_flops / 1e12:.3g} TFLOP/s", cost.model_flops),
        MFU=MFU, F=MODEL_FLOPS,
        mfu=of(f"{100 * cost.mfu:.3g} %", cost.mfu),
        peak=of(f"{cost.hardware.peak / 1e12:g} TFLOP/s", cost.hardware.peak, "S", peak_key),
        hfu=of(f"{100 * cost.hfu:.3g} %", cost.hfu),
    )  # fmt: skip
    rows = []
    for name, seconds in cost.parts().items():
        share = seconds / cost.seconds
        if share < 5e-4:
            continue
        rows.append([line(name), line(of(f"{seconds:.3f}", seconds)),
                     line(of(f"{100 * share:.1f} %", share))])  # fmt: skip
    rows.append([line("a step"), line(of(f"{cost.seconds:.3f}", cost.seconds)),
                 line(of("all", 1.0))])  # fmt: skip
    idle = say(
        "Filling and draining the pipeline idles {bubble} of the step. Jitter, slow ranks and "
        "reading of data are not in a predicted step.",
        bubble=of(f"{100 * cost.bubble / cost.seconds:.3g} %", cost.bubble / cost.seconds),
    )  # fmt: skip
    blocks: list[Block] = [
        Paragraph(text),
        Picture("step", "Parts of a predicted step as bars",
                say("A predicted step in parts, along its slowest stage.")),
        Grid(say("A predicted step in parts, along its slowest stage; seconds."),
             ["part", "seconds", "share"], rows, sums=frozenset({len(rows) - 1})),
        Paragraph(idle),
    ]  # fmt: skip
    if cost.how.note:
        blocks.append(Paragraph(say(
            "No run of this trainer on GPUs was measured. The step carries the loss that published "
            "runs on DeepSpeed's pipeline engine had beside the same model, {loss} of the GPU's "
            "rates; a calibration on this machine replaces it.",
            loss=of(f"{100 * (1 - cost.how.efficiency):.0f} %", 1 - cost.how.efficiency,
                    why="alpenglow.parallel.framework, DEEPSPEED"),
        )))  # fmt: skip
    for warning in cost.hardware.warnings:
        blocks.append(
            Paragraph(say("{warning}.", warning=of(warning, mark="A", why="machine file")))
        )
    return blocks


def series_grid(series: Series, title: str) -> Grid:
    """A series in OLCF's form: nProc, time to solution actual and ideal."""
    what = {"M": "measured", "A": "synthetic"}.get(series.mark, "predicted")
    rows = []
    for each in series.points:
        ideal = series.ideal(each)

        def of(text: str, number: float | None = None) -> Line:
            return line(Value(text, series.mark, series.source, number))

        rows.append([
            of(f"{each.processes:,}", each.processes), of(f"{each.nodes:,}", each.nodes),
            of(f"{each.seconds:.4g}", each.seconds),
            line(Value(f"{ideal:.4g}", "P", "computed: ideal from the first row", ideal)),
            line(Value(f"{100 * series.efficiency(each):.1f} %", "P",
                       f"computed: ideal over {what}", series.efficiency(each))),
            of(f"{each.micro_batches}", each.micro_batches),
            line(Value(f"{100 * each.bubble:.1f} %", "P",
                       "computed: the schedule alone, equal passes, free messages", each.bubble)),
            Line() if each.communication is None
            else of(f"{100 * each.communication:.1f} %", each.communication),
        ])  # fmt: skip
    kept = ("the global batch is kept" if series.kind == "strong"
            else "the micro-batches of a replica are kept")  # fmt: skip
    caption = say(f"{title}, {what}: time to solution is seconds of a step; {kept}.")
    return Grid(caption, ["nProc", "nodes", "actual", "ideal", "efficiency", "m", "bubble",
                          "comm."], rows, wide={})  # fmt: skip


def validation_blocks() -> list[Block]:
    """How far predictions are from published runs."""
    rows = []
    for title, count, mean, worst in _validated():
        source = "python -m alpenglow.parallel.validation"
        of_them = "the publication's own numbers, src/alpenglow/parallel/published"
        rows.append([
            line(Value(title, "S", of_them)),
            line(Value(f"{count}", "P", source, count)),
            line(Value(f"{100 * mean:.1f} %", "P", source, mean)),
            line(Value(f"{100 * worst:.1f} %".replace("-", "−"), "P", source, worst)),
        ])  # fmt: skip
    return [
        Paragraph(say("How far the model of a step is from published runs on other machines; no "
                      "constant was fitted to a row that is called held out.")),
        Grid(say("Predicted beside published."), ["published", "points", "mean error", "worst"],
             rows, wide={0: 0.55}),
    ]  # fmt: skip


@lru_cache(maxsize=1)
def _validated() -> tuple[tuple[str, int, float, float], ...]:
    found = []
    for table in validation.tables():
        if not table.title.startswith("DeepBench"):
            errors = [row.error for row in table.rows]
            mean = sum(map(abs, errors)) / len(errors)
            found.append((table.title, len(errors), mean, max(errors, key=abs)))
    return tuple(found)
