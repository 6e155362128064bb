"""The recipe that goes with the small shards: a model that trains in a second."""

from __future__ import annotations

import tomli_w

Table = dict[str, object]


def small_recipe(train: Table, **tables: Table) -> str:
    """TOML text for `python -m alpenglow.train`, beside `write_small_shards(folder / "shards")`.

    Args:
        train: the table of that name; it must say how long.
        tables: further tables by name.
    """
    model = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "vocab_size": 128,
        "max_position_embeddings": 32,
    }
    batch = {"global_batch_size": 8, "micro_batch_size": 2, "sequence_length": 16}
    mixture = {"github": 3, "wikipedia": 1}
    data = {"catalogue": "shards/catalogue.json", "mixture": mixture}
    base: dict[str, Table] = {"model": {**model}, "batch": {**batch}, "data": {**data}}
    return tomli_w.dumps({**base, "optimizer": {"lr": 3e-3}, "train": train, **tables})
