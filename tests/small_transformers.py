"""Hugging Face folders made on the spot: tiny, of seeded random weights, tokenizers trained on Python's own words."""

from __future__ import annotations

import email
import importlib
import json
import os
import random
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
END = "<|endoftext|>"


@cache
def _transformers() -> Any:
    """The library, with the first model that is made: four seconds, which else each process takes to collect tests."""
    before = dict(os.environ)
    import transformers

    importlib.import_module("torch._dynamo")  # comes with the first model, and sets a variable, which no test may

    os.environ.clear()
    os.environ.update(before)
    transformers.utils.logging.disable_progress_bar()
    return transformers


@cache
def words() -> tuple[str, ...]:
    """What some modules of Python say of themselves, as words."""
    told = " ".join(str(module.__doc__) for module in (email, json, random, re))
    return tuple(re.findall(r"[A-Za-z]+", told))


def sentence(num_words: int, seed: int) -> str:
    """Words drawn from those."""
    return " ".join(random.Random(seed).choices(words(), k=num_words))


def lengths(count: int, low: int, high: int) -> list[int]:
    """Log-normal ones, within bounds."""
    drawn = np.exp(np.random.default_rng(0).normal(np.log(40), 1.0, count))
    return [int(value) for value in drawn.clip(low, high)]


def word_pieces(folder: Path) -> tokenizers.Tokenizer:
    """A tokenizer as BERT's, written to the folder."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        [" ".join(words())], trainers.WordPieceTrainer(vocab_size=400, special_tokens=MARKS, show_progress=False)
    )
    marks = [(mark, made.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    made.save(str(folder / "tokenizer.json"))
    return made


def bytes_of_words(folder: Path) -> tokenizers.Tokenizer:
    """A tokenizer as GPT-2's, written to the folder."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([" ".join(words())], trainer)
    made.save(str(folder / "tokenizer.json"))
    return made


def bert(folder: Path, kind: str, **settings: Any) -> torch.nn.Module:
    """Two layers of BERT in a folder, with their tokenizer; weights large enough that answers differ.

    Args:
        folder: made if it is not there.
        kind: the end of the class's name, as "ForSequenceClassification".
        settings: of BertConfig.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = word_pieces(folder)
    config = _transformers().BertConfig(
        **{
            "vocab_size": made.get_vocab_size(),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "initializer_range": 0.2,
            "pad_token_id": made.token_to_id("[PAD]"),
            **settings,
        }
    )
    return _save(folder, getattr(_transformers(), f"Bert{kind}"), config)


def gpt2(folder: Path, **settings: Any) -> torch.nn.Module:
    """Two layers of GPT-2 in a folder, with their tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    made = bytes_of_words(folder)
    end = made.token_to_id(END)
    config = _transformers().GPT2Config(
        **{
            "vocab_size": made.get_vocab_size(),
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "initializer_range": 0.5,
            "bos_token_id": end,
            "eos_token_id": end,
            **settings,
        }
    )
    return _save(folder, _transformers().GPT2LMHeadModel, config)


def vit(folder: Path, **processor: Any) -> torch.nn.Module:
    """Two layers of a vision transformer for pictures of 32 pixels, with their preparation."""
    folder.mkdir(parents=True, exist_ok=True)
    config = _transformers().ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        initializer_range=0.3,
        id2label={0: "cat", 1: "dog", 2: "owl"},
        label2id={"cat": 0, "dog": 1, "owl": 2},
    )
    settings: dict[str, Any] = {"do_resize": True, "size": {"shortest_edge": 36}, "resample": 2, "do_normalize": True}
    settings |= {
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | processor))
    return _save(folder, _transformers().ViTForImageClassification, config)


def _save(folder: Path, kind: Any, config: Any) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: torch.nn.Module = kind(config).eval()
    model.save_pretrained(str(folder))  # type: ignore[operator]
    return model


def solo(model: torch.nn.Module, ids: Sequence[int]) -> Any:
    """What plain PyTorch answers to one text alone."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)]))
