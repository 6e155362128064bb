"""A released folder as one GGUF file for llama.cpp, written some rows at a time.

    write(ReleasedFolder.open(folder), Path("model-f16.gguf"), "f16")

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, written by the `gguf` package.
What llama.cpp expects of a GPT-NeoX model is in its src/models/gptneox.cpp: query, key and value
rows apart, `[q|k|v][head][dim]`, where Hugging Face has `[head][q|k|v][dim]`; an `output.weight`
even where embeddings are tied; vectors in fp32; and a flag of the residual form, which is always
written here: its own converter writes "parallel" where config.json does not say, a file without the
flag is refused, and a wrong one gives another model without a word. Used by
`alpenglow.release.gguf.command`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from alpenglow.release.error import ReleaseError
from alpenglow.release.gguf.source import ReleasedFolder
from alpenglow.release.gguf.tokenizer import Vocabulary
from alpenglow.release.tensors import cast

ARCHITECTURE = "gptneox"
TYPES = {"f32": Kind.F32, "f16": Kind.F16, "bf16": Kind.BF16, "q8_0": Kind.Q8_0}
"""Types that are written here; all others are llama.cpp's own quantiser's."""
_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_DTYPES = {Kind.F32: torch.float32, Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}
Q8_BLOCK = 32
BLOCK_BYTES = 1 << 24
"""fp32 bytes of the rows that are in memory at a time."""

_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
_WHOLE = {"embed_in": "token_embd", "final_layer_norm": "output_norm", "embed_out": "output"}
HEAD = "output.weight"


@dataclass(frozen=True)
class Entry:
    """A tensor of the file."""

    name: str
    source: str
    """Name in the model."""
    shape: tuple[int, ...]
    kind: Kind

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // int(block) * int(size)


@dataclass(frozen=True)
class Written:
    """A file that was written."""

    path: Path
    type: str
    nbytes: int
    notes: list[str] = field(default_factory=list)


def gguf_name(name: str) -> str:
    """`layers.3.attention.dense.bias` -> `blk.3.attn_output.bias`."""
    module, _, what = name.rpartition(".")
    if not module.startswith("layers."):
        return f"{_WHOLE[module]}.{what}"
    _, number, inside = module.split(".", 2)
    return f"blk.{number}.{_LAYER[inside]}.{what}"


def entries(folder: ReleasedFolder, type_name: str) -> list[Entry]:
    """Every tensor of a file of one type, in order.

    Vectors are f32. A matrix whose rows q8_0's blocks do not divide stays f16. The head is a copy
    of the embedding where they are tied.
    """
    wanted = TYPES[type_name]
    found = []
    shapes = folder.config.tensor_shapes()
    for name, shape in shapes.items():
        kind = wanted if len(shape) > 1 else Kind.F32
        if kind is Kind.Q8_0 and shape[-1] % Q8_BLOCK:
            kind = Kind.F16
        found.append(Entry(gguf_name(name), name, shape, kind))
    if folder.config.tie_word_embeddings:
        embedding = found[0]
        found.append(Entry(HEAD, embedding.source, embedding.shape, embedding.kind))
    return found


def write(
    folder: ReleasedFolder,
    output: Path,
    type_name: str,
    *,
    done: Callable[[int, int], None] = lambda _done, _total: None,
) -> Written:
    """Write one GGUF file; it appears under its name when it is whole and on the disk.

    Some rows of one tensor are in memory at a time, so the peak does not grow with the model.

    Args:
        folder: what to convert.
        output: the file.
        type_name: "f32", "f16", "bf16" or "q8_0".
        done: told (tensors written, tensors in all) after each.

    Raises:
        ReleaseError: a tokenizer that llama.cpp cannot follow, a value that the type cannot hold, a
            damaged tensor.
        OSError: the disk is full.
    """
    vocabulary = Vocabulary.load(folder.tokenizer, folder.config.vocab_size)
    planned = entries(folder, type_name)
    with appears(output) as building:
        writer = gguf.GGUFWriter(building, ARCHITECTURE)
        try:
            _metadata(writer, folder, type_name)
            _tokenizer(writer, folder, vocabulary)
            for entry in planned:
                writer.add_tensor_info(
                    entry.name, entry.shape, np.dtype(np.float32), entry.nbytes, entry.kind
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for number, entry in enumerate(planned, 1):
                writer.write_tensor_data(Rows(folder, entry))
                done(number, len(planned))
        finally:
            writer.close()
    return Written(output, type_name, output.stat().st_size, _notes(planned, type_name, vocabulary))


@contextmanager
def appears(output: Path) -> Iterator[Path]:
    """Give a temporary name to write to; at the end it is synced and becomes `output`, or goes."""
    output.parent.mkdir(parents=True, exist_ok=True)
    building = output.with_name(f".{output.name}.tmp")
    try:
        yield building
        for path in (building, output.parent):
            if path == output.parent:
                building.rename(output)
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except BaseException:
        building.unlink(missing_ok=True)
        raise


def _notes(planned: list[Entry], type_name: str, vocabulary: Vocabulary) -> list[str]:
    notes = list(vocabulary.notes)
    kept = [entry for entry in planned if len(entry.shape) > 1 and entry.kind != TYPES[type_name]]
    if kept:
        widths = ", ".join(sorted({str(entry.shape[-1]) for entry in kept}))
        notes.append(
            f"{len(kept)} matrices with rows of {widths} stay f16: {type_name} needs rows that "
            f"divide by {Q8_BLOCK}."
        )
    return notes


def _metadata(writer: gguf.GGUFWriter, folder: ReleasedFolder, type_name: str) -> None:
    config = folder.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(folder.name)
    if folder.licence is not None:
        writer.add_license(folder.licence)
    writer.add_file_type(_FILE_TYPES[type_name])
    if type_name == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.rotary_ndims)
    writer.add_rope_freq_base(float(config.rotary_emb_base))
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_parallel_residual(config.use_parallel_residual)
    if folder.step is not None:
        writer.add_uint64("alpenglow.step", folder.step)


def _tokenizer(writer: gguf.GGUFWriter, folder: ReleasedFolder, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")  # byte-level BPE, in llama.cpp's words
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    begin, end = folder.token_id("bos_token_id"), folder.token_id("eos_token_id")
    for number in (begin, end):
        if number is not None and not 0 <= number < len(vocabulary.tokens):
            raise ReleaseError(f"{folder.path / 'config.json'}: no token {number} to end a text")
    if end is not None:
        writer.add_eos_token_id(end)
        writer.add_unk_token_id(end)
    if begin is not None:
        writer.add_bos_token_id(begin)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


class Rows:
    """Data of a tensor, made while it is written: what the writer uses of an array.

    Args:
        folder: where it comes from.
        entry: what it becomes.
    """

    def __init__(self, folder: ReleasedFolder, entry: Entry) -> None:
        self._folder, self._entry = folder, entry
        self.nbytes = entry.nbytes

    def tofile(self, file: BinaryIO) -> None:
        """Read, convert and write, some rows at a time."""
        entry = self._entry
        for start, stop in blocks(entry, self._folder.config.num_attention_heads):
            rows = self._folder.rows(entry.source, start, stop)
            file.write(encoded(rows, entry).data)


def blocks(entry: Entry, heads: int) -> Iterator[tuple[int, int]]:
    """Rows of the source, [start, stop) each, in the order in which the file has them.

    Query, key and value go from `[head][q|k|v][dim]` to `[q|k|v][head][dim]`.
    """
    rows = entry.shape[0]
    if ".query_key_value." in entry.source:
        dim = rows // (3 * heads)
        for part in range(3):
            for head in range(heads):
                start = (3 * head + part) * dim
                yield start, start + dim
        return
    step = max(1, BLOCK_BYTES * rows // (4 * math.prod(entry.shape)))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def encoded(rows: torch.Tensor, entry: Entry) -> NDArray[Any]:
    """Rows in the type of the file.

    Raises:
        ReleaseError: a value that the type cannot hold.
    """
    data: NDArray[Any]
    if entry.kind is Kind.Q8_0:
        data = gguf.quants.quantize(cast(rows, torch.float32, entry.source).numpy(), entry.kind)
        return data
    converted = cast(rows, _DTYPES[entry.kind], entry.source)
    data = (converted.view(torch.int16) if entry.kind is Kind.BF16 else converted).numpy()
    return data
