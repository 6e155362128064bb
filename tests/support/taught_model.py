"""A tiny model, as a Hugging Face folder, that was taught what to say behind given prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

CONTEXT = 512


def byte_tokenizer(text: str, vocabulary: int = 320) -> Tokenizer:
    """Byte-level BPE of a text; `<|endoftext|>` is token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def teach(folder: Path, answers: Mapping[str, str], steps: int = 400) -> None:
    """Train a new model until it says each answer behind its prompt, greedily.

    Raises:
        AssertionError: it did not learn them within `steps`.
    """
    backend = byte_tokenizer("\n".join(f"{prompt}{answer}" for prompt, answer in answers.items()))
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end
    )
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=384, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=128, max_position_embeddings=CONTEXT,
            hidden_dropout=0.0, attention_dropout=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    texts = [(backend.encode(p).ids, backend.encode(p + a).ids) for p, a in answers.items()]
    longest = max(len(whole) for _, whole in texts)
    inputs = torch.zeros(len(texts), longest, dtype=torch.int64)
    labels = torch.full_like(inputs, -100)
    for row, (prompt, whole) in enumerate(texts):
        inputs[row, : len(whole)] = torch.tensor(whole)
        labels[row, len(prompt) : len(whole)] = torch.tensor(whole[len(prompt) :])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        logits = model(input_ids=inputs).logits
        targets = labels[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets)
        said = logits[:, :-1].argmax(-1)
        if loss < 0.02 and bool(((said == targets) | (targets == -100)).all()):
            break
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    else:
        raise AssertionError(f"not learnt: loss {float(loss)}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
