"""The proof of a release: our checkpoints and GPT-NeoX's, converted, against what was trained.

    python tests/support/release_proof.py        prints the tables; exit code 1 if a row differs

Small models with random weights and biases that are not zero. Of our own checkpoints, every rank of
a layout (tensor 1, 2, 4 x pipeline 1, 2 x data 2) writes the fragments that it owns by the code of
training, and the logits to compare with are those of the training model split over the same tensor
ranks. Of GPT-NeoX's, files and logits are those of `neox_files`, our account of that code. Each
checkpoint becomes a Hugging Face folder, transformers loads it, and the largest difference of two
logits in fp32 is printed; beside it what the other rule for row-parallel biases would give: the sum
of the ranks' copies where one is right, one where the sum is. Without a difference there, equal
logits would prove nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from neox_files import NAMINGS, Naming, NeoxModel
from safetensors.torch import load_file
from thread_ranks import ThreadRank, ThreadWorld
from tokenizers import Tokenizer, models
from torch import Tensor, nn

from alpenglow.exchange.source import Source, open_source
from alpenglow.model.config import ModelConfig
from alpenglow.model.layers import Embedding, FinalLayerNorm, LogitHead, TransformerLayer
from alpenglow.model.proof import configurations, cut, random_weights
from alpenglow.model.stages import build_local, global_tensors, load_global
from alpenglow.parallel.tensor import TensorGroup
from alpenglow.release.huggingface import write_release
from alpenglow.release.verification.verify import LOGIT_TOLERANCE
from alpenglow.train.checkpoint import save, step_directory
from alpenglow.train.training_state import MOMENTS, fragments

TENSOR = (1, 2, 4)
PIPELINE = (1, 2)
DATA = 2
STEP = 7
_ROWS, _LENGTH = 2, 24
_BIASES = ("attention.dense.bias", "mlp.dense_4h_to_h.bias")


@dataclass(frozen=True)
class Row:
    """One model on one layout."""

    origin: str
    """ "fragments", or the naming of GPT-NeoX's files."""
    tensor: int
    pipeline: int
    config: ModelConfig
    difference: float
    """Largest absolute difference of two logits."""
    wrong: float | None
    """The same under the other rule for row-parallel biases; None where both say the same."""
    largest: float
    """Largest absolute logit."""

    @property
    def holds(self) -> bool:
        seen = self.wrong is None or self.wrong > 100 * LOGIT_TOLERANCE
        return self.difference < LOGIT_TOLERANCE and seen and self.largest > 1


def neox_cases() -> Iterator[tuple[ModelConfig, int, Naming]]:
    """Every model, tensor degree and naming that GPT-NeoX can train as it is meant."""
    for config, tensor, naming in itertools.product(configurations(), TENSOR, NAMINGS):
        if not NeoxModel(config, tensor, naming).reduces_twice:
            yield config, tensor, naming


def some_tokens(config: ModelConfig) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(config.vocab_size, (_ROWS, _LENGTH), generator=generator)


def write_tokenizer(folder: Path, words: int = 64) -> Path:
    """A tokenizer of whole words, enough for a release."""
    vocabulary = {"<|endoftext|>": 0} | {f"w{i}": i for i in range(1, words)}
    path = folder / "tokenizer.json"
    Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>")).save(str(path))
    return path


# Our own checkpoints.


def fragments_row(config: ModelConfig, tensor: int, pipeline: int, folder: Path) -> Row:
    """Write, convert and compare a checkpoint of one layout."""
    weights = random_weights(config)
    checkpoint = write_fragments(config, weights, tensor, pipeline, folder / "checkpoints")
    release = _released(open_source(checkpoint), folder)
    tokens = some_tokens(config)
    trained = split_logits(config, weights, tensor, tokens)
    model = load(release)
    found = _logits(model, tokens)

    def summed(name: str, bias: Tensor) -> Tensor:
        return bias * tensor

    wrong = None if tensor == 1 else _largest(_spoilt(model, summed, tokens), trained)
    largest = float(trained.abs().max())
    return Row("fragments", tensor, pipeline, config, _largest(found, trained), wrong, largest)


def write_fragments(
    config: ModelConfig, weights: dict[str, Tensor], tensor: int, pipeline: int, folder: Path
) -> Path:
    """Write a checkpoint as the ranks of a layout do, each a thread of this process."""
    directory = step_directory(folder, STEP)
    state = {"recipe": {"model": dataclasses.asdict(config)}, "tokens": 700, "dtype": "fp32"}

    def act(rank: ThreadRank) -> None:
        stage, rest = divmod(rank.rank, DATA * tensor)
        data, place = divmod(rest, tensor)
        group = TensorGroup(object(), place, tensor)
        module = _stage(config, group, stage, pipeline)
        tensors = global_tensors(module, config, group)
        load_global(tensors, lambda name, part: cut(weights[name], part))
        optimizer = _zero_1([item.parameter for item in tensors], data)
        own = fragments(tensors, optimizer, (stage, data, place))
        save(directory, own, step=STEP, state=state, group=rank)

    _on_threads(act, pipeline * DATA * tensor)
    return directory


def _stage(config: ModelConfig, group: TensorGroup, stage: int, pipeline: int) -> nn.ModuleList:
    slots: list[nn.Module] = [
        Embedding(config, group, None),
        *(TransformerLayer(config, i, group, None) for i in range(config.num_layers)),
        FinalLayerNorm(config, group, None),
    ]
    if config.tie_word_embeddings:
        head: nn.Module = Embedding(config, group, None) if pipeline > 1 else slots[0]
        if pipeline > 1:  # as DeepSpeed marks the last stage's copy
            head.weight.ds_pipe_replicated = True  # type: ignore[union-attr]
        slots.append(head)
    else:
        slots.append(LogitHead(config, group, None))
    cuts = [round(i * len(slots) / pipeline) for i in range(pipeline + 1)]
    return nn.ModuleList(slots[cuts[stage] : cuts[stage + 1]])


def _zero_1(parameters: Sequence[nn.Parameter], data: int) -> torch.optim.Optimizer:
    """This data rank's flat partition of all parameters, noted as DeepSpeed's ZeRO-1 notes it."""
    joined = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    share = -(-len(joined) // DATA)
    begin, end = data * share, min(len(joined), (data + 1) * share)
    flat = nn.Parameter(joined[begin:end].clone())
    optimizer = torch.optim.AdamW([flat])
    optimizer.state[flat] = {moment: torch.zeros_like(flat.detach()) for moment in MOMENTS}
    offset = 0
    for parameter in parameters:
        first, last = max(begin, offset), min(end, offset + parameter.numel())
        mapping = None
        if first < last:
            mapping = SimpleNamespace(
                param_group_index=0,
                hp_fragment_address=SimpleNamespace(start=first - begin, numel=last - first),
                lp_fragment_address=SimpleNamespace(start=first - offset, numel=last - first),
            )
        parameter._hp_mapping = mapping  # type: ignore[attr-defined]
        offset += parameter.numel()
    return optimizer


class _ThreadReduce:
    """`torch.distributed`'s all_reduce among threads."""

    def __init__(self, rank: ThreadRank) -> None:
        self._rank = rank

    def all_reduce(self, tensor: Tensor, op: Any, group: object) -> None:
        if op != torch.distributed.ReduceOp.SUM:
            raise NotImplementedError(op)
        tensor.copy_(torch.stack(self._rank.all_gather_object(tensor.clone())).sum(dim=0))


def split_logits(
    config: ModelConfig, weights: dict[str, Tensor], tensor: int, tokens: Tensor
) -> Tensor:
    """Logits of the training model, its matrices split over tensor ranks that are threads."""

    def act(rank: ThreadRank) -> Tensor:
        group = TensorGroup(object(), rank.rank, tensor, comm=_ThreadReduce(rank))
        model = build_local(config, group)
        model.load_global(lambda name, part: cut(weights[name], part))
        with torch.no_grad():
            logits: Tensor = model(tokens)
        return logits

    return torch.cat(_on_threads(act, tensor), dim=-1)


def _on_threads(act: Callable[[ThreadRank], Any], count: int) -> list[Any]:
    world = ThreadWorld(["n0"] * count)
    failures: list[Exception] = []

    def one(rank: ThreadRank) -> Any:
        try:
            return act(rank)
        except Exception as error:
            failures.append(error)
            world.meeting.abort()  # the others would wait for this rank
            return None

    results = world.run(one)
    if failures:
        raise failures[0]
    return results


# GPT-NeoX's checkpoints.


def neox_row(config: ModelConfig, tensor: int, naming: Naming, folder: Path) -> Row:
    """Write files as GPT-NeoX does, convert and compare with what its ranks compute."""
    origin = NeoxModel(config, tensor, naming)
    release = _released(open_source(origin.write(folder / "checkpoints", STEP)), folder)
    tokens = some_tokens(config)
    trained = origin.logits(tokens)
    model = load(release)
    found = _logits(model, tokens)
    rule = partial(one_copy if config.use_parallel_residual else summed_copies, origin)
    wrong = None if tensor == 1 else _largest(_spoilt(model, rule, tokens), trained)
    largest = float(trained.abs().max())
    return Row(naming, tensor, 1, config, _largest(found, trained), wrong, largest)


def copies(origin: NeoxModel, name: str) -> list[Tensor]:
    """The ranks' copies of a row-parallel bias, by its name in transformers."""
    layer, kind = int(name.split(".")[2]), "dense" if "attention" in name else "down"
    return [origin.bias(rank, layer, kind) for rank in range(origin.tensor)]


def one_copy(origin: NeoxModel, name: str, _bias: Tensor) -> Tensor:
    return copies(origin, name)[0]


def summed_copies(origin: NeoxModel, name: str, _bias: Tensor) -> Tensor:
    return torch.stack(copies(origin, name)).sum(dim=0)


# Both.


def _released(source: Source, folder: Path) -> Path:
    release = folder / "release"
    release.mkdir()
    write_release(release, source, write_tokenizer(folder))
    return release


def load(folder: Path) -> Any:
    """The folder as transformers loads it, whole."""
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[what]:
            raise AssertionError(f"{what}: {report[what]}")
    return model


def _logits(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(tokens, use_cache=False).logits
    return logits


def _spoilt(model: Any, rule: Callable[[str, Tensor], Tensor], tokens: Tensor) -> Tensor:
    """Logits with every row-parallel bias by another rule."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(_BIASES):
                parameter.copy_(rule(name, parameter))
    return _logits(model, tokens)


def _largest(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        raise ValueError(f"shape {list(one.shape)} against {list(other.shape)}")
    difference = float((one - other).abs().max())
    return math.inf if math.isnan(difference) else difference


def round_trip(release: Path, target: Path) -> list[str]:
    """Names of tensors whose bits change from a released folder to a source to a folder again."""
    again = _released(open_source(release, form="huggingface"), target)
    one, other = (_tensors(folder) for folder in (release, again))
    if one.keys() != other.keys():
        return sorted(one.keys() ^ other.keys())
    texts = [json.loads((folder / "config.json").read_text()) for folder in (release, again)]
    changed = ["config.json"] if texts[0] != texts[1] else []
    return changed + [
        name
        for name, tensor in one.items()
        if tensor.dtype != other[name].dtype
        or not torch.equal(tensor.view(torch.uint8), other[name].view(torch.uint8))
    ]


def _tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def table(rows: Sequence[Row]) -> str:
    """Write the rows as text."""
    head = (
        f"{'checkpoint':<19}{'tensor':>6} {'pipeline':>8} {'residual':>8} {'embedding':>9} "
        f"{'rotary':>6} {'difference':>10} {'other rule':>10} {'largest':>7}"
    )
    lines = [head, "-" * len(head)]
    for row in rows:
        lines.append(
            f"{row.origin:<19}{row.tensor:6d} {row.pipeline:8d} "
            f"{'parallel' if row.config.use_parallel_residual else 'serial':>8} "
            f"{'tied' if row.config.tie_word_embeddings else 'untied':>9} "
            f"{row.config.rotary_pct:6.2f} {row.difference:10.1e} "
            f"{'-' if row.wrong is None else f'{row.wrong:.2f}':>10} {row.largest:7.2f}"
            f"{'' if row.holds else '  DIFFERS'}"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the tables; 0 if all holds, else 1."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)  # ranks are threads here
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="proof-") as scratch:
        folder = Path(scratch)

        def fresh() -> Path:
            shutil.rmtree(folder)
            folder.mkdir()
            return folder

        for config, tensor, pipeline in itertools.product(configurations(), TENSOR, PIPELINE):
            rows.append(fragments_row(config, tensor, pipeline, fresh()))
        sys.stdout.write(table(rows))
        found = [neox_row(*case, fresh()) for case in neox_cases()]
        sys.stdout.write("\nGPT-NeoX's own files\n" + table(found))
        rows += found
        (folder / "again").mkdir()
        changed = round_trip(folder / "release", folder / "again")
        sys.stdout.write(f"\nround trip: {', '.join(changed) or 'bit-equal'}\n")
    wrong = sum(not row.holds for row in rows)
    sys.stdout.write(
        f"\n{len(rows)} comparisons in fp32, {wrong} do not hold (allowed: {LOGIT_TOLERANCE:g})\n"
    )
    return 1 if wrong or changed else 0


if __name__ == "__main__":
    sys.exit(main())
