"""The architecture of a GPT-NeoX checkpoint, from the YAML files that it was trained with.

GPT-NeoX saves its configuration files in `global_stepN/configs/`. Several files make one set of
keys, written with `-` or `_`; defaults are those of megatron/neox_arguments/neox_args.py. A key
that the architecture here cannot express is refused by name. This module is imported, never
started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpenglow.exchange.error import ExchangeError
from alpenglow.model.config import ModelConfig

_SUFFIXES = (".yml", ".yaml", ".json")

# Key: what it is when it is not said, and what it may be.
_FIXED: dict[str, tuple[object, tuple[object, ...]]] = {
    "pos_emb": ("learned", ("rotary",)),
    "norm": ("layernorm", ("layernorm", "te_layernorm")),
    "activation": ("gelu", ("gelu",)),
    "gpt_j_tied": (False, (False, None)),
    "openai_gelu": (False, (False, None)),
    "geglu": (False, (False, None)),
    "use_bias_in_norms": (True, (True,)),
    "use_bias_in_attn_linear": (True, (True,)),
    "use_bias_in_mlp": (True, (True,)),
    "use_qk_layernorm": (False, (False, None)),
    "use_mup": (False, (False, None)),
    "sliding_window_width": (None, (None,)),
    "moe_num_experts": (1, (0, 1, None)),
    "num_experts": (1, (0, 1, None)),
    "opt_pos_emb_offset": (0, (0, None)),
}
_SIZES = (
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "max_position_embeddings",
    "intermediate_size",
    "expansion_factor",
    "mlp_multiple_of",
    "model_parallel_size",
    "rotary_pct",
    "rotary_emb_base",
    "layernorm_epsilon",
    "init_method",
    "init_method_std",
    "output_layer_init_method",
    "gpt_j_residual",
    "no_weight_tying",
    "num_kv_heads",
    "num_unique_layers",
    "attention_config",
    "soft_prompt_tuning",
    "bias_gelu_fusion",
    "te_rowparallel",
    "te_layernorm_mlp",
    "te_mha",
    "te_fp8_mha",
)
_REDUCED_TWICE = ("te_rowparallel", "te_layernorm_mlp", "te_mha", "te_fp8_mha")
_READ = frozenset((*_FIXED, *_SIZES))


@dataclass(frozen=True)
class NeoxConfig:
    """What the configuration files of a checkpoint say."""

    path: Path
    """The file or folder, for messages."""
    keys: Mapping[str, Any]
    """Every key with `_` for `-`."""

    @classmethod
    def load(cls, path: Path) -> NeoxConfig:
        """Read one file, or all of a folder's.

        Raises:
            ExchangeError: no such file, not YAML, or two files that say different things of a key
                that counts.
        """
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [file for file in files if not path.is_dir() or file.suffix in _SUFFIXES]
        if not files:
            raise ExchangeError(f"{path}: no {', '.join(_SUFFIXES)} file in it")
        keys: dict[str, Any] = {}
        said: dict[str, Path] = {}
        for file in files:
            for key, value in _entries(file):
                if key in said and key in _READ and keys[key] != value:
                    raise ExchangeError(
                        f"{file}: {key} = {value!r}, but {said[key].name} says {keys[key]!r}"
                    )
                keys[key], said[key] = value, file
        return cls(path, keys)

    @property
    def tensor(self) -> int:
        """Tensor-parallel degree."""
        return self._whole("model_parallel_size", 1)

    @property
    def layers(self) -> int:
        """Transformer layers."""
        return self._whole("num_layers")

    @property
    def parallel_residual(self) -> bool:
        """Attention and MLP side by side, with one reduction over tensor ranks for both."""
        return self._flag("gpt_j_residual", False)

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding; yes unless `no_weight_tying`."""
        return not self._flag("no_weight_tying", False)

    def model(self, vocab_size: int) -> ModelConfig:
        """The architecture with a padded vocabulary of so many rows.

        Raises:
            ExchangeError: a key is missing, of the wrong type, or says what cannot be expressed.
        """
        self._refuse()
        hidden = self._whole("hidden_size")
        base = self._number("rotary_emb_base", 10000)
        if base != int(base):
            raise ExchangeError(f"{self.path}: rotary_emb_base = {base} is not a whole number")
        small = self.keys.get("init_method") == "small_init"
        try:
            return ModelConfig(
                num_layers=self.layers,
                hidden_size=hidden,
                num_attention_heads=self._whole("num_attention_heads"),
                vocab_size=vocab_size,
                max_position_embeddings=self._whole("max_position_embeddings"),
                intermediate_size=self._intermediate(hidden),
                rotary_pct=self._number("rotary_pct", 1.0),
                rotary_emb_base=int(base),
                use_parallel_residual=self.parallel_residual,
                tie_word_embeddings=self.tied,
                layer_norm_eps=self._number("layernorm_epsilon", 1e-5),
                initializer="small_init" if small else "normal",
                initializer_range=self._number("init_method_std", 0.02),
            )
        except ValueError as error:
            raise ExchangeError(f"{self.path}: {error}") from None

    def notes(self) -> tuple[str, ...]:
        """Sentences on what a model trained by these files computes differently, if anything."""
        found = []
        if self._flag("bias_gelu_fusion", False):
            found.append(
                "bias_gelu_fusion: it was trained with the tanh approximation of GELU, and is read "
                "as a model of the exact one, as Pythia's releases are"
            )
        return tuple(found)

    def _refuse(self) -> None:
        engine = [key for key in _REDUCED_TWICE if self.keys.get(key)]
        if engine and self.parallel_residual and self.tensor > 1:
            # The layer reduces what these modules have reduced: each branch counts `tensor` times.
            raise ExchangeError(
                f"{self.path}: {engine[0]} with the parallel residual on {self.tensor} tensor "
                "ranks cannot be expressed: GPT-NeoX then adds each branch once a rank"
            )
        for key, (default, allowed) in _FIXED.items():
            value = self.keys.get(key, default)
            if value not in allowed:
                told = "" if key in self.keys else " (GPT-NeoX's default)"
                raise ExchangeError(
                    f"{self.path}: {key} = {value!r}{told} cannot be expressed: the architecture "
                    f"here has {key} = {allowed[0]!r}"
                )
        heads, groups = self._whole("num_attention_heads"), self.keys.get("num_kv_heads")
        if groups not in (None, heads):
            raise ExchangeError(
                f"{self.path}: num_kv_heads = {groups!r} cannot be expressed: each of the "
                f"{heads} heads has keys and values of its own here"
            )
        unique = self.keys.get("num_unique_layers")
        if unique not in (None, self.layers):
            raise ExchangeError(
                f"{self.path}: num_unique_layers = {unique!r} cannot be expressed: no layers are "
                "shared here"
            )
        kinds = set(_words(self.keys.get("attention_config")))
        if other := sorted(kinds - {"global", "flash"}):
            raise ExchangeError(
                f"{self.path}: attention_config = {other[0]!r} cannot be expressed: attention is "
                "global here"
            )
        prompt = self.keys.get("soft_prompt_tuning")
        if isinstance(prompt, dict) and prompt.get("enabled"):
            raise ExchangeError(f"{self.path}: soft_prompt_tuning cannot be expressed")
        if self.keys.get("te_layernorm_mlp") and self._number("layernorm_epsilon", 1e-5) != 1e-5:
            raise ExchangeError(
                f"{self.path}: te_layernorm_mlp takes 1e-5 in its layer norm whatever "
                f"layernorm_epsilon = {self.keys['layernorm_epsilon']} says, and two epsilons "
                "cannot be expressed"
            )

    def _intermediate(self, hidden: int) -> int:
        """Rounded up as ParallelMLP does (megatron/model/transformer.py)."""
        wanted = self.keys.get("intermediate_size")
        factor = self.keys.get("expansion_factor")
        width = 4 * hidden
        if wanted:
            width = self._whole("intermediate_size")
        elif factor:
            width = int(self._number("expansion_factor", 4) * hidden)
        unit = 2 * self._whole("mlp_multiple_of", 1)
        return -(-width // unit) * unit

    def _whole(self, key: str, default: int | None = None) -> int:
        value = self.keys.get(key, default)
        if value is None:
            raise ExchangeError(f"{self.path}: {key} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ExchangeError(f"{self.path}: {key} = {value!r} is not a number above 0")
        return value

    def _number(self, key: str, default: float) -> float:
        value = self.keys.get(key, default)
        try:
            # YAML 1.1 takes 1e-5 for a word: it wants a point in a number with an exponent.
            return float(value)
        except (TypeError, ValueError):
            raise ExchangeError(f"{self.path}: {key} = {value!r} is not a number") from None

    def _flag(self, key: str, default: bool) -> bool:
        value = self.keys.get(key, default)
        if not isinstance(value, bool) and value not in (None, 0, 1):
            raise ExchangeError(f"{self.path}: {key} = {value!r} is neither true nor false")
        return bool(value)


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    import yaml

    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExchangeError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ExchangeError(f"{path}: not a configuration file: {told}") from None
    if not isinstance(body, dict):
        raise ExchangeError(f"{path}: not a configuration file: no keys in it")
    for key, value in body.items():
        yield str(key).replace("-", "_"), value


def _words(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)
