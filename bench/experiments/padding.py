"""What padding in the batch buys for a text classifier, on a real server: 64 sentences of log-normal length at once.

    python -m bench.experiments.padding [--layers 4] [--hidden 256] [--rounds 5] [--out bench/results]

One BERT of transformers' own configuration, seeded weights (its answers mean nothing, its speed does), archived from
its unchanged files: once as it is served, once with one forward a sentence (`micro_batch: 1`). Each round asks both,
in turns, for the same 64 sentences at once. Every answer is compared with plain PyTorch's for that sentence alone.
Beside it, what there is to gain: the CPU time of forwards by length and number, in this process.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.flow.lengths.forward_cost import fit

from bench.machine import describe

NUM_SENTENCES = 64
SHORTEST, LONGEST = 8, 512
VOCABULARY = 8000
LENGTHS, NUMBERS, MOST_TOKENS = (8, 16, 32, 64, 128, 256, 512), (1, 2, 4, 8, 16), 2048
"""Whose forwards are timed."""


def make_model(folder: Path, layers: int, hidden: int) -> Any:
    """A BERT classifier's folder, as transformers writes it, and the model itself."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config: Any = BertConfig(  # type: ignore[call-arg,unused-ignore]
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
        max_position_embeddings=LONGEST,
        num_labels=5,
    )
    model: Any = BertForSequenceClassification(config)
    model.eval()
    model.save_pretrained(folder)
    words = {f"w{index}": index for index in range(VOCABULARY - 1)} | {"[UNK]": VOCABULARY - 1}
    tokenizer: Any = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def sentences() -> list[list[int]]:
    """Ids of log-normal length."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(4.2, 0.9, NUM_SENTENCES)).astype(int), SHORTEST, LONGEST)
    return [rng.integers(5, VOCABULARY, length).tolist() for length in lengths]


def time_forwards(plain: Any) -> dict[int, dict[int, float]]:
    """Milliseconds of CPU of one forward on one thread, by length and number of sentences; each the least of five."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {length: {n: math.inf for n in NUMBERS if n * length <= MOST_TOKENS} for length in LENGTHS}
    with torch.inference_mode():
        for _ in range(5):
            for length, by_number in found.items():
                for number in by_number:
                    ids = torch.randint(5, VOCABULARY, (number, length))
                    start = time.process_time()
                    plain(input_ids=ids, attention_mask=torch.ones_like(ids))
                    by_number[number] = min(by_number[number], 1000 * (time.process_time() - start))
    torch.set_num_threads(num_threads)
    return {length: {n: round(ms, 2) for n, ms in by_number.items()} for length, by_number in found.items()}


def most_to_gain(forwards: dict[int, dict[int, float]], lengths: list[int]) -> float:
    """How much faster sentences could be if a forward cost nothing beside its tokens, and nothing were padded."""
    timed = [(n, length, ms) for length, by_number in forwards.items() for n, ms in by_number.items()]
    cost = fit(timed)
    tokens = sum(map(cost.of_item, lengths))
    return (cost.fixed * len(lengths) + tokens) / tokens


def ask(url: str, ids: list[int]) -> tuple[list[float], int, int]:
    """Scores, batch size and forward size."""
    inputs = {"input_ids": ids, "attention_mask": [1] * len(ids)}
    headers = {"X-SmartBatch-Output": "raw"}
    reply = requests.post(url, json={"inputs": inputs}, headers=headers, timeout=300)
    reply.raise_for_status()
    sizes = (int(reply.headers[f"X-SmartBatch-{name}-Size"]) for name in ("Batch", "Forward"))
    result = reply.json()["result"]
    return (result["logits"] if isinstance(result, dict) else result), *sizes


def measure(folder: Path, layers: int, hidden: int, rounds: int) -> dict[str, Any]:
    """All figures."""
    plain = make_model(folder / "bert", layers, hidden)
    ids = sentences()
    forwards = time_forwards(plain)
    with torch.inference_mode():
        expected = [plain(input_ids=torch.tensor([one])).logits[0].numpy() for one in ids]
    (folder / "example.json").write_text(
        json.dumps({"inputs": {"input_ids": ids[0], "attention_mask": [1] * len(ids[0])}})
    )
    inputs = ("input_ids:int64:L:0", "attention_mask:int64:L:0")
    for name, overrides in (("batched", {}), ("alone", {"micro_batch": "1"})):
        settings = ArchiveSettings(
            hf=str(folder / "bert"),
            inputs=inputs,
            example=folder / "example.json",
            name=name,
            output=folder / "store",
            overrides=overrides,
        )
        build_archive(settings)
    server = start_server(
        ServerSettings(
            model_store=folder / "store",
            run_dir=folder / "run",
            inference_port=0,
            management_port=0,
            metrics_port=0,
        )
    )
    seconds: dict[str, list[float]] = {"batched": [], "alone": []}
    ratios: list[float] = []
    num_forwards = 0.0
    worst = 0.0
    try:
        with server.management() as client:
            for name in seconds:
                client.register(f"{name}.mar", name, batch_size=NUM_SENTENCES, max_batch_delay_ms=200, workers=1)
                client.wait_ready(name, 300)
            for number in range(rounds + 1):  # the first loads and calibrates
                for name, taken in seconds.items():
                    url = f"{server.inference_url}/predictions/{name}"
                    start = time.perf_counter()
                    with ThreadPoolExecutor(NUM_SENTENCES) as pool:
                        answers = list(pool.map(ask, [url] * NUM_SENTENCES, ids))
                    if number == 0:
                        continue
                    taken.append(time.perf_counter() - start)
                    for (scores, _, _), wanted in zip(answers, expected, strict=True):
                        worst = max(worst, float(np.abs(np.array(scores) - wanted).max()))
                    if name == "batched":
                        num_forwards = sum(1 / size for _, _, size in answers)
                        ratios.append(_gauge(server.metrics_url, "smartbatch_padding_ratio", name))
            described = client.describe("batched", customized=True).customized
    finally:
        server.stop(grace_s=0)
    tokens = sum(map(len, ids))
    rate = {name: tokens / statistics.median(taken) for name, taken in seconds.items()}
    lengths = list(map(len, ids))
    naive = 1 - tokens / (NUM_SENTENCES * max(map(len, ids)))
    return {
        "layers": layers,
        "hidden": hidden,
        "sentences": NUM_SENTENCES,
        "tokens": tokens,
        "tokens_per_s": {name: round(value) for name, value in rate.items()},
        "speedup": round(rate["batched"] / rate["alone"], 2),
        "most_to_gain": round(most_to_gain(forwards, lengths), 2),
        "forward_ms": forwards,
        "padding_waste": round(statistics.median(ratios), 3),
        "naive_padding_waste": round(naive, 3),
        "forwards": round(num_forwards),
        "largest_difference": worst,
        "micro_batch": described["micro_batch"] if described else None,
        "seconds": seconds,
    }


def _gauge(url: str, name: str, model: str) -> float:
    text = requests.get(url, timeout=30).text
    lines = [line for line in text.splitlines() if line.startswith(name + "{") and f'"{model}"' in line]
    return float(lines[0].rsplit(" ", 1)[1])


def main() -> int:
    """Measure, print and write padding.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        found = measure(Path(scratch), args.layers, args.hidden, args.rounds)
    results = {"machine": describe(), **found}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "padding.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
