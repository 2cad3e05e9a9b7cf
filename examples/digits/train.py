"""Train the digits network in seconds: `python examples/digits/train.py`.

Writes build/digits.pth (the state dict) and build/test.npz (the held-out quarter: images [N, 8, 8], labels [N]).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from model import DigitsCNN  # type: ignore[import-not-found]  # the file beside this script
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Train, measure on the held-out quarter, write both files."""
    parser = argparse.ArgumentParser(description="Train the digits network.")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder to write to")
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a network this small gains nothing from a second one

    digits = load_digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        digits.images.astype(np.float32), digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    model = DigitsCNN()
    fit(model, torch.from_numpy(train_images)[:, None], torch.from_numpy(train_labels), arguments.epochs)

    model.eval()
    with torch.inference_mode():
        predicted = model(torch.from_numpy(test_images)[:, None]).argmax(1).numpy()
    arguments.build.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), arguments.build / "digits.pth")
    np.savez(arguments.build / "test.npz", images=test_images, labels=test_labels)
    print(f"held-out accuracy {np.mean(predicted == test_labels):.4f} on {len(test_labels)} digits")
    print(f"wrote {arguments.build / 'digits.pth'} and {arguments.build / 'test.npz'}")


def fit(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, num_epochs: int) -> None:
    """Fit with AdamW on batches of 128; images are [N, 1, 8, 8]."""
    batch_size = 128
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    num_steps = num_epochs * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=num_steps)
    model.train()
    for epoch in range(num_epochs):
        losses = []
        for chosen in torch.randperm(len(images)).split(batch_size):  # type: ignore[no-untyped-call]
            loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if (epoch + 1) % 5 == 0:
            print(f"epoch {epoch + 1:2d} of {num_epochs}: loss {np.mean(losses):.4f}", flush=True)


if __name__ == "__main__":
    main()
