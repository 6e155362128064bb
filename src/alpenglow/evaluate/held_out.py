"""Perplexity on a run's own held-out tokens, by slice, with the released model.

The windows are those of the run's validation stream (`alpenglow.data.windows`), whose labels count
as in training: none of removed documents, and only documents that lie wholly in what is held out.
Where documents were masked in training, positions begin anew at each and no token sees another
one's. The row `all` is the first samples of the validation stream, what the run's own evaluations
read, so it equals their loss up to rounding; `mixture` weighs the slices as the run's mixture does.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alpenglow.config import parse
from alpenglow.data.catalogue import Catalogue
from alpenglow.data.loader import Loader
from alpenglow.data.order import Order
from alpenglow.evaluate.error import EvaluateError
from alpenglow.evaluate.recipe import PerplexityRecipe
from alpenglow.parallel.tensor import IGNORED_LABEL
from alpenglow.train.recipe import DataRecipe
from alpenglow.train.run_directory import find_named

ALL, MIXTURE = "all", "mixture"


@dataclass(frozen=True)
class SliceLoss:
    """Loss on the windows of one slice."""

    slice: str
    windows: int
    tokens: int
    """Labels that count."""
    bytes: int | None
    """Of UTF-8 that those tokens stand for, ends of documents none; None where unknown."""
    loss: float
    """Nats a token."""
    held_out: bool

    def fields(self) -> dict[str, Any]:
        """As evaluation.json has it."""
        bits = None
        if self.bytes:
            bits = self.loss * self.tokens / math.log(2) / self.bytes
        return {
            "slice": self.slice,
            "windows": self.windows,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "loss": self.loss,
            "perplexity": math.exp(min(self.loss, 700.0)),  # e^710 is beyond a double
            "bits_per_byte": bits,
            "held_out": self.held_out,
        }


@dataclass(frozen=True)
class RunText:
    """The tokens a run reads, and how it reads them."""

    catalogue: Catalogue
    data: DataRecipe
    sequence_length: int

    @classmethod
    def of(cls, run: Path) -> RunText:
        """Read run.toml and the catalogue that it names.

        Raises:
            EvaluateError: no run.toml, none of its recipe, or the shards are others than then.
            ConfigError: a recipe that this version does not understand.
            CatalogueError: the catalogue is damaged.
        """
        path = run / "run.toml"
        try:
            facts = tomllib.loads(path.read_text(encoding="utf-8"))
            tables, length = facts["recipe"]["data"], facts["recipe"]["batch"]["sequence_length"]
        except FileNotFoundError:
            raise EvaluateError(
                f"{path}: no such file, so the run's held-out text is unknown; name a run, or set "
                "perplexity.windows=0"
            ) from None
        except (OSError, ValueError) as error:
            raise EvaluateError(f"{path}: {error}") from None
        except (KeyError, TypeError):
            raise EvaluateError(
                f"{path}: it has no recipe of data and batch, so the run's held-out text is "
                "unknown; set perplexity.windows=0"
            ) from None
        data = parse(DataRecipe, tables, str(path))
        place = find_named(run, data.catalogue)
        catalogue = Catalogue.load(place)
        wanted = facts.get("data", {}).get("fingerprint", catalogue.fingerprint)
        if catalogue.fingerprint != wanted:
            raise EvaluateError(
                f"{place}: fingerprint {catalogue.fingerprint} is not {wanted}, which {path} "
                "names: what is held out there is not what training left out; restore the run's "
                "shards, or set perplexity.windows=0"
            )
        return cls(catalogue, data, int(length))

    def weights(self) -> dict[str, float]:
        """The run's mixture, shares that sum to 1."""
        return self.data.weights(set(self.catalogue.slices))

    def order(self, mixture: dict[str, float], held_out: bool) -> Order:
        """The stream of some slices: what a slice holds out depends on no other slice."""
        order = Order.of(
            self.catalogue,
            mixture,
            sequence_length=self.sequence_length,
            seed=self.data.seed,
            validation_fraction=self.data.validation_fraction,
        )
        return order.validation() if held_out else order


class HeldOut:
    """Reads windows with a model and sums what it loses.

    Args:
        model: a causal language model of transformers.
        text: the run's.
        recipe: which windows.
        token_bytes: bytes that each token stands for, int64 [vocabulary]; None where unknown.
        batch_size: windows at a time.
        told: told (windows read, windows in all).

    Raises:
        EvaluateError: a slice that the mixture does not have; windows longer than the context.
    """

    def __init__(
        self,
        model: Any,
        text: RunText,
        recipe: PerplexityRecipe,
        token_bytes: NDArray[np.int64] | None,
        batch_size: int,
        told: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._model, self._text, self._recipe = model, text, recipe
        self._bytes, self._batch = token_bytes, batch_size
        self._told, self._done = told, 0
        self._masked = text.data.documents == "masked"
        context = model.config.max_position_embeddings
        if text.sequence_length > context:
            raise EvaluateError(
                f"the run's windows have {text.sequence_length} tokens, the model's context "
                f"{context}: it is not this run's model"
            )
        weights = text.weights()
        for name in recipe.slices:
            if name not in weights:
                raise EvaluateError(
                    f"perplexity.slices: {name} is not in the run's mixture ({', '.join(weights)})"
                )
        chosen = {k: w for k, w in weights.items() if not recipe.slices or k in recipe.slices}
        self._weights = chosen
        self._parts = {name: text.order({name: 1.0}, recipe.held_out) for name in chosen}
        self._counts = {
            name: min(recipe.windows, order.windows[name]) for name, order in self._parts.items()
        }
        samples = recipe.samples if recipe.samples is not None else text.data.validation_samples
        # A choice of slices has no stream of its own, and training text was never evaluated on.
        self._samples = samples if recipe.held_out and not recipe.slices else 0

    def losses(self) -> tuple[list[SliceLoss], list[str]]:
        """Every slice, the mixture of them, and the stream as the run's evaluations read it.

        Returns:
            rows, and notes on slices without any.

        Raises:
            EvaluateError: tokens outside the model's vocabulary, or a loss that is not finite.
            ShardError: a shard is missing or damaged.
        """
        rows, notes, total = [], [], sum(self._counts.values()) + self._samples
        for name, order in self._parts.items():
            row = self._read(name, order, self._counts[name], total)
            if row is None:
                notes.append(
                    f"no document of {name} lies wholly in the {self._counts[name]} "
                    "windows read of what is held out."
                )
            else:
                rows.append(row)
        mixed = self._mixture(rows) if not notes and len(rows) > 1 else None
        whole = None
        if self._samples:
            order = self._text.order(self._weights, held_out=True)
            whole = self._read(ALL, order, self._samples, total)
        return rows + [row for row in (mixed, whole) if row is not None], notes

    def _mixture(self, rows: list[SliceLoss]) -> SliceLoss:
        """Loss of a text whose tokens come from the slices by the run's weights.

        Its bytes are the slices' bytes a token in the same weights, times all tokens.
        """
        whole = sum(self._weights.values())
        shares = {row.slice: self._weights[row.slice] / whole for row in rows}
        tokens = sum(row.tokens for row in rows)
        loss = sum(shares[row.slice] * row.loss for row in rows)
        size = None
        if all(row.bytes is not None for row in rows):
            each = sum(shares[row.slice] * (row.bytes or 0) / row.tokens for row in rows)
            size = round(each * tokens)
        windows = sum(row.windows for row in rows)
        return SliceLoss(MIXTURE, windows, tokens, size, loss, self._recipe.held_out)

    def _read(self, name: str, order: Order, count: int, total: int) -> SliceLoss | None:
        loader = Loader(order, self._text.catalogue)
        nats, labels, size = 0.0, 0, 0
        for numbers in self._batches(count):
            lost, counted = self._batch_loss(loader, numbers)
            nats += lost
            labels += counted.size
            if self._bytes is not None:
                size += int(self._bytes[counted].sum())
            self._done += len(numbers)
            self._told(self._done, total)
        if not labels:
            return None
        if not math.isfinite(nats):
            raise EvaluateError(
                f"perplexity of {name}: the loss is {nats} in {self._model.dtype}; compute in fp32 "
                "(dtype=fp32) and see whether the model itself is sound"
            )
        known = size if self._bytes is not None else None
        return SliceLoss(name, count, labels, known, nats / labels, self._recipe.held_out)

    def _batches(self, count: int) -> Iterator[NDArray[np.int64]]:
        for first in range(0, count, self._batch):
            yield np.arange(first, min(count, first + self._batch))

    def _batch_loss(
        self, loader: Loader, numbers: NDArray[np.int64]
    ) -> tuple[float, NDArray[np.int64]]:
        """Nats of some samples, and the labels that they were counted over."""
        read = loader.rows(numbers, positions=self._masked)
        assert read.tokens is not None
        if int(read.tokens.max()) >= self._model.config.vocab_size:
            raise EvaluateError(
                f"{self._text.catalogue.folder}: holds token {read.tokens.max()}, the model's "
                f"vocabulary ends at {self._model.config.vocab_size}: it is not this run's model"
            )
        counts = loader.counted(numbers)
        device = self._model.device
        named: dict[str, torch.Tensor] = {}
        if read.positions is not None:
            positions = torch.from_numpy(read.positions).to(device)
            mask = document_mask(positions, self._model.dtype)
            named = {"position_ids": positions, "attention_mask": mask}
        inputs = torch.from_numpy(read.tokens[:, :-1]).to(device)
        labels = torch.from_numpy(np.where(counts, read.tokens[:, 1:], IGNORED_LABEL)).to(device)
        with torch.inference_mode():
            logits = self._model(input_ids=inputs, use_cache=False, **named).logits
            # One window at a time: logits in fp32 are the largest tensor here.
            nats = sum(
                torch.nn.functional.cross_entropy(
                    row.float(), label, ignore_index=IGNORED_LABEL, reduction="none"
                )
                .double()
                .sum()
                for row, label in zip(logits, labels, strict=True)
            )
        return float(nats), read.tokens[:, 1:][counts]


def document_mask(positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention scores so that a token sees its own document's past alone.

    Args:
        positions: int64 [rows, S], place of each token in its document; 0 begins one.
        dtype: of the scores.

    Returns:
        [rows, 1, S, S], 0 where a query sees a key and the least finite number elsewhere.
    """
    document = (positions == 0).cumsum(dim=1)
    place = torch.arange(positions.shape[1], device=positions.device)
    seen = (document[:, :, None] == document[:, None, :]) & (place[:, None] >= place[None, :])
    mask = torch.zeros(seen.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def token_bytes(tokenizer: Any, vocabulary: int) -> NDArray[np.int64] | None:
    """Bytes of UTF-8 that each token of a byte-level tokenizer stands for.

    Tokens are not decoded in windows: a window's borders cut characters, whose bytes would be lost.

    Args:
        tokenizer: of transformers, a fast one.
        vocabulary: of the model; padding beyond the tokenizer's own tokens has 0.

    Returns:
        int64 [vocabulary], special tokens 0; None where the tokenizer does not work on bytes.
    """
    from tokenizers import decoders, pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.decoder, decoders.ByteLevel):
        return None
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    added = backend.get_added_tokens_decoder()
    sizes = np.zeros(vocabulary, np.int64)
    for token, number in backend.get_vocab(with_added_tokens=True).items():
        if number >= vocabulary:
            return None
        if number in added:
            sizes[number] = 0 if added[number].special else len(token.encode("utf-8"))
        elif set(token) <= alphabet:
            sizes[number] = len(token)  # the alphabet has a character a byte
        else:
            return None
    return sizes
