"""Train the network in seconds: `python examples/text/train.py`.

Writes build/tokenizer.json, build/text.pth (the state dict) and build/test.json (the held-out fifth: texts and labels).
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import torch
from model import VOCABULARY, Reader  # type: ignore[import-not-found]  # the file beside this script
from sentences import labelled  # type: ignore[import-not-found]
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Train, measure on the held-out fifth, write the files."""
    parser = argparse.ArgumentParser(description="Train the network that tells libraries by their documentation.")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder to write to")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a network this small gains nothing from a second one

    names = (HERE / "labels.txt").read_text().split()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some modules are deprecated, and only read here
        pairs = labelled()
    num_test = len(pairs) // 5
    test, train = pairs[:num_test], pairs[num_test:]
    tokenizer = make_tokenizer([text for text, _ in train])
    model = Reader()
    fit(
        model,
        [encode(tokenizer, text) for text, _ in train],
        [names.index(name) for _, name in train],
        arguments.epochs,
    )

    model.eval()
    with torch.inference_mode():
        predicted = [int(model(*batch([encode(tokenizer, text)])).argmax()) for text, _ in test]
    num_right = sum(names[index] == name for index, (_, name) in zip(predicted, test, strict=True))
    arguments.build.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(arguments.build / "tokenizer.json"))
    torch.save(model.state_dict(), arguments.build / "text.pth")
    (arguments.build / "test.json").write_text(json.dumps(test))
    print(f"held-out accuracy {num_right / len(test):.4f} on {len(test)} sentences, trained on {len(train)}")
    print(f"wrote tokenizer.json, text.pth and test.json to {arguments.build}")


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """A tokenizer of word pieces that the texts are made of."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> torch.Tensor:
    """Token numbers [L]."""
    return torch.tensor(tokenizer.encode(text).ids)


def batch(texts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers and mask, both [N, L], of texts padded to the longest."""
    ids = pad_sequence(texts, batch_first=True)
    return ids, (ids > 0).long()


def fit(model: torch.nn.Module, texts: list[torch.Tensor], labels: list[int], num_epochs: int) -> None:
    """Fit with AdamW on batches of 128."""
    batch_size = 128
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    num_steps = num_epochs * -(-len(texts) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-2, total_steps=num_steps)
    targets = torch.tensor(labels)
    model.train()
    for epoch in range(num_epochs):
        losses = []
        for chosen in torch.randperm(len(texts)).split(batch_size):  # type: ignore[no-untyped-call]
            loss = functional.cross_entropy(model(*batch([texts[index] for index in chosen])), targets[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if (epoch + 1) % 2 == 0:
            print(f"epoch {epoch + 1:2d} of {num_epochs}: loss {sum(losses) / len(losses):.4f}", flush=True)


if __name__ == "__main__":
    main()
