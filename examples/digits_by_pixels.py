"""Digits read pixel by pixel with PyTorch: 64 steps of one value each, from the images of 8 x 8 pixels of scikit-learn.

pip install "indygru_cpu[torch]" scikit-learn && python examples/digits_by_pixels.py [--quick] [--plot FILE]
docs/training_recipes.md has the reasons for the settings.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import cross_entropy

from indygru_cpu.torch import IndyGRU

Data = list[torch.Tensor]


def digits(contrast: float = 10) -> Data:
    """Standardized pixels times `contrast`, (T, B, 1), for training and test, and the digits of both."""
    pixels, labels = load_digits(return_X_y=True)
    train, test, *targets = train_test_split(pixels, labels, test_size=0.2, random_state=0, stratify=labels)
    x = [torch.tensor(part.T[..., None] - train.mean()).float() * (contrast / train.std()) for part in (train, test)]
    return [*x, *map(torch.tensor, targets)]


class Digits(torch.nn.Module):
    """Scores of ten digits: a linear map of the last state."""

    def __init__(self, rnn: torch.nn.Module) -> None:
        super().__init__()
        self.rnn, self.head = rnn, torch.nn.Linear((1 + rnn.bidirectional) * rnn.hidden_size, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, h_n = self.rnn(x)
        last_layer = h_n[-1 - self.rnn.bidirectional :]  # (directions, B, N)
        return self.head(torch.cat(list(last_layer), dim=1))


def long_memory(rnn: IndyGRU, n_steps: int) -> IndyGRU:
    """Set initial biases: memories of 2 to about `n_steps` steps, and candidates that differ without any input."""
    n = rnn.hidden_size
    with torch.no_grad():
        for name, bias in rnn.named_parameters():
            if name.startswith("bias"):  # the order is r, z, candidate
                bias[n : 2 * n].uniform_(0, math.log(n_steps))
                bias[2 * n :].uniform_(-1, 1)
    return rnn


def train(model: Digits, data: Data, n_epochs: int, learning_rate: float, max_norm: float = 0.1) -> Iterator[float]:
    """Train with Adam, and a learning rate that follows half a cosine. Yields the test accuracy after each epoch."""
    x, x_test, labels, labels_test = data
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs * math.ceil(len(labels) / 50))
    for _ in range(n_epochs):
        model.train()
        for rows in torch.randperm(len(labels)).split(50):
            loss = cross_entropy(model(x[:, rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            yield (model(x_test).argmax(dim=1) == labels_test).float().mean().item()


def plot(curve: list[float], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    figure.add_subplot(xlabel="epoch", ylabel="test accuracy").plot(range(1, len(curve) + 1), curve)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 epochs instead of 30")
    parser.add_argument("--plot", metavar="FILE", help="draw the accuracy against the number of epochs")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Digits(long_memory(IndyGRU(1, 64, num_layers=3, dropout=0.1), 64))
    curve = []
    for epoch, accuracy in enumerate(train(model, digits(), 5 if options.quick else 30, 0.02), 1):
        curve.append(accuracy)
        print(f"epoch {epoch}: test accuracy {accuracy:.1%}")
    if options.plot:
        plot(curve, options.plot)
    print(f"Test accuracy: {100 * curve[-1]:.1f}%")


if __name__ == "__main__":
    main()
