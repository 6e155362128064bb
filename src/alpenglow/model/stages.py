"""GPT-NeoX as slots of a DeepSpeed pipeline, or as one module in one process.

    group = TensorGroup.create(layout, rank, recorder, comm=deepspeed.comm)
    module = PipelineModule(
        layer_specs(config, group, seed=1), topology=PipeModelDataParallelTopology(pp, tp, dp),
        loss_fn=loss_function(config, group), partition_method=PARTITION_METHOD,
        checkpointable_layers=checkpointable_layers(), activation_checkpoint_interval=1)
    for tensor in global_tensors(module, config, group): ...

Slots: embedding, the transformer layers, final layer norm, head. The first takes int64 token ids
[micro-batch, length]; the last gives this rank's columns of the logits [micro-batch, length, V/t].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alpenglow.model.config import ModelConfig, Slice, local_slice, slice_numel, split_axis
from alpenglow.model.documents import Documents
from alpenglow.model.layers import (
    AttentionKind,
    Embedding,
    FinalLayerNorm,
    GlobalNames,
    LogitHead,
    TransformerLayer,
)
from alpenglow.parallel.head_loss import Head, head_cross_entropy, head_input
from alpenglow.parallel.tensor import (
    IGNORED_LABEL,
    TensorGroup,
    vocabulary_parallel_cross_entropy,
)

TIED_KEY = "embed_in"

LossKind = Literal["plain", "fused"]
"""plain: logits, then their cross entropy. fused: both at once, a few tokens at a time."""

Outputs = Tensor | tuple[Tensor, Head]
"""What the last slot gives: logits, or what the fused loss makes them of."""


@dataclass(frozen=True)
class GlobalTensor:
    """A parameter of this rank and its place in the whole model.

    Args:
        name: global name (Hugging Face's without `gpt_neox.`).
        parameter: the local parameter, of shape given by `slice`.
        global_shape: shape of the whole tensor.
        slice: the part that `parameter` is.
        replicated: the whole tensor is on every tensor rank.
        tied_copy: the last stage's copy of a tied embedding: load it, but save the first stage's.
    """

    name: str
    parameter: nn.Parameter
    global_shape: tuple[int, ...]
    slice: Slice
    replicated: bool
    tied_copy: bool = False


class LocalModel(nn.Module):
    """The whole model in one process (or one tensor group), without DeepSpeed."""

    def __init__(
        self,
        config: ModelConfig,
        group: TensorGroup,
        seed: int | None,
        attention: AttentionKind,
        loss: LossKind = "plain",
        documents: Documents | None = None,
    ) -> None:
        super().__init__()
        self.documents = documents
        self.config = config
        self.group = group
        self.loss = loss
        self.embedding = Embedding(config, group, seed)
        self.layers = nn.ModuleList(
            TransformerLayer(config, index, group, seed, attention, documents)
            for index in range(config.num_layers)
        )
        self.norm = FinalLayerNorm(config, group, seed)
        self.head = None if config.tie_word_embeddings else LogitHead(config, group, seed)

    def forward(self, tokens: Tensor) -> Any:
        """int64 [micro-batch, length] -> logits [micro-batch, length, V / size].

        With the fused loss: the pair that `loss_function` takes.
        """
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        head = self.embedding if self.head is None else self.head
        if self.loss == "fused":
            return head_input(x, head.weight, self.group)
        return self.embedding.logits(x) if self.head is None else self.head(x)

    def load_global(self, get: Callable[[str, Slice], Tensor]) -> None:
        """Fill every parameter; see the function `load_global`."""
        load_global(global_tensors(self, self.config, self.group), get)


def layer_specs(
    config: ModelConfig,
    group: TensorGroup,
    *,
    seed: int | None,
    attention: AttentionKind = "plain",
    loss: LossKind = "plain",
    documents: Documents | None = None,
) -> list[Any]:
    """List the slots for `deepspeed.pipe.PipelineModule`.

    Args:
        config: the model.
        group: this rank's tensor group.
        seed: of the initial weights (alpenglow.model.neox); None leaves them uninitialised, for a
            caller that loads them all.
        attention: "plain" or "sdpa".
        loss: with "fused" the last slot gives (hidden states, Head) instead of logits.
        documents: keep attention and positions inside documents; whoever runs the stage selects
            each micro-batch in it.

    Raises:
        ValueError: the model does not divide by the tensor degree.
    """
    from deepspeed.pipe import LayerSpec, TiedLayerSpec

    config.check_parallel(1, group.size)
    layers = [
        LayerSpec(TransformerLayer, config, index, group, seed, attention, documents)
        for index in range(config.num_layers)
    ]
    norm = LayerSpec(FinalLayerNorm, config, group, seed)
    if not config.tie_word_embeddings:
        first = LayerSpec(Embedding, config, group, seed)
        return [first, *layers, norm, LayerSpec(LogitHead, config, group, seed, loss == "fused")]
    tied = [
        TiedLayerSpec(TIED_KEY, Embedding, config, group, seed, forward_fn=forward)
        for forward in (None, _tied_pair if loss == "fused" else _tied_logits)
    ]
    return [tied[0], *layers, norm, tied[1]]


def checkpointable_layers() -> list[str]:
    """Class names for DeepSpeed's activation checkpointing.

    Only the transformer layers: the embedding's integer input has no gradient, at which DeepSpeed's
    reentrant checkpoint fails.
    """
    return [TransformerLayer.__name__]


def loss_function(config: ModelConfig, group: TensorGroup) -> Callable[[Any, Tensor], Tensor]:
    """Return the `loss_fn` of the pipeline: mean cross entropy over the labels that count.

    It takes what the last slot gives, logits [micro-batch, length, V / size] or, for the fused
    loss, hidden states [micro-batch, length, hidden] with the Head, and int64 labels [micro-batch,
    length] (already shifted; `IGNORED_LABEL` is left out). It gives an fp32 scalar, equal on all
    tensor ranks.
    """
    total = _summed(config, group)

    def cross_entropy(outputs: Outputs, labels: Tensor) -> Tensor:
        return total(outputs, labels) / (labels != IGNORED_LABEL).sum().clamp(min=1)

    return cross_entropy


def loss_sum(config: ModelConfig, group: TensorGroup) -> Callable[[Any, Tensor], Tensor]:
    """Return the function by which an evaluation adds up losses over micro-batches of any shape.

    It takes what `loss_function`'s does and gives fp64 [2]: the sum over the labels that count, and
    their number, equal on all tensor ranks.
    """
    total = _summed(config, group)

    def sum_and_count(outputs: Outputs, labels: Tensor) -> Tensor:
        count = (labels != IGNORED_LABEL).sum()
        return torch.stack([total(outputs, labels).double(), count.double()])

    return sum_and_count


def _summed(config: ModelConfig, group: TensorGroup) -> Callable[[Outputs, Tensor], Tensor]:
    columns = group.share(config.vocab_size, "vocab_size")

    def total(outputs: Outputs, labels: Tensor) -> Tensor:
        if isinstance(outputs, tuple):
            return head_cross_entropy(*outputs, labels, group)
        if outputs.shape[-1] != columns:
            raise ValueError(f"logits have {outputs.shape[-1]} columns, not {columns} a rank")
        return vocabulary_parallel_cross_entropy(outputs, labels, group).sum()

    return total


def global_tensors(
    module: nn.Module, config: ModelConfig, group: TensorGroup
) -> list[GlobalTensor]:
    """List this rank's parameters with their global names and slices, input end first.

    Args:
        module: a PipelineModule made from `layer_specs`, or a LocalModel.
        config: as given to `layer_specs`.
        group: as given to `layer_specs`.

    Raises:
        ValueError: a parameter of another shape than its slice.
    """
    shapes = config.tensor_shapes()
    found: dict[str, GlobalTensor] = {}
    for slot in module.modules():
        if not isinstance(slot, GlobalNames) or not isinstance(slot, nn.Module):
            continue
        for local, parameter in slot.named_parameters():
            name = f"{slot.prefix}.{local}"
            part = local_slice(name, shapes[name], group.rank, group.size)
            if parameter.numel() != slice_numel(part):
                raise ValueError(f"{name}: {list(parameter.shape)} is not the slice {part}")
            # DeepSpeed marks the copy of a tied weight that lies on a later stage.
            copy = bool(getattr(parameter, "ds_pipe_replicated", False))
            replicated = group.size == 1 or split_axis(name) is None
            found[name] = GlobalTensor(name, parameter, shapes[name], part, replicated, copy)
    return [found[name] for name in shapes if name in found]


def load_global(tensors: Sequence[GlobalTensor], get: Callable[[str, Slice], Tensor]) -> None:
    """Fill parameters in place, one at a time.

    Args:
        tensors: from `global_tensors`.
        get: gives the asked slice of a global tensor, any dtype or device.

    Raises:
        ValueError: a tensor of another shape than its slice.
    """
    with torch.no_grad():
        for tensor in tensors:
            value = get(tensor.name, tensor.slice)
            if value.shape != tensor.parameter.shape:
                raise ValueError(
                    f"{tensor.name}: got {list(value.shape)}, want {list(tensor.parameter.shape)}"
                )
            tensor.parameter.copy_(value)


def build_local(
    config: ModelConfig,
    group: TensorGroup | None = None,
    *,
    seed: int | None = None,
    attention: AttentionKind = "plain",
    loss: LossKind = "plain",
    documents: Documents | None = None,
) -> LocalModel:
    """Build the whole model in this process, without DeepSpeed.

    Args:
        config: the model.
        group: a tensor group to share the matrices with; default: none.
        seed: of the initial weights; None leaves them uninitialised, for `LocalModel.load_global`.
        attention: "plain" or "sdpa".
        loss: as in `layer_specs`.
        documents: as in `layer_specs`.
    """
    group = TensorGroup() if group is None else group
    config.check_parallel(1, group.size)
    return LocalModel(config, group, seed, attention, loss, documents)


def _tied_logits(embedding: Embedding, x: Tensor) -> Tensor:
    return embedding.logits(x)


def _tied_pair(embedding: Embedding, x: Tensor) -> tuple[Tensor, Head]:
    return head_input(x, embedding.weight, embedding.group)
