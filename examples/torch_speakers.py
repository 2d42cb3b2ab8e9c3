"""Speaker classification with PyTorch: nine speakers utter /ae/ (Japanese Vowels, 12 cepstrum coefficients a frame).

pip install "indygru_cpu[torch]" && python examples/torch_speakers.py [EPOCHS]
"""

from __future__ import annotations

import sys

import torch
from torch.nn.functional import cross_entropy

from indygru_cpu.datasets import Utterances, japanese_vowels
from indygru_cpu.torch import IndyGRU


class Speakers(torch.nn.Module):
    """Scores of nine speakers: a linear map of the mean state of two bidirectional layers."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor, hidden_size: int = 64) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.gru = IndyGRU(12, hidden_size, num_layers=2, dropout=0.2, bidirectional=True)
        self.head = torch.nn.Linear(2 * hidden_size, 9)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        y, _ = self.gru((x - self.mean) / self.scale, lengths=lengths)  # y is 0 past the end of an utterance
        return self.head(y.sum(dim=0) / lengths[:, None])


def tensors(part: Utterances) -> tuple[torch.Tensor, ...]:
    return torch.from_numpy(part.x), torch.from_numpy(part.lengths), torch.from_numpy(part.speakers)


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    torch.manual_seed(0)
    train, test = japanese_vowels()
    frames = torch.from_numpy(train.x[train.valid])
    model = Speakers(frames.mean(dim=0), frames.std(dim=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    x, lengths, speakers = tensors(train)
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(speakers)).split(30):
            loss = cross_entropy(model(x[:, rows], lengths[rows]), speakers[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % 10 == 0 or epoch == epochs:
            print(f"epoch {epoch}: cross-entropy {loss.item():.3f}")
    model.eval()
    x, lengths, speakers = tensors(test)
    with torch.no_grad():
        accuracy = (model(x, lengths).argmax(dim=1) == speakers).float().mean().item()
    print(f"Test accuracy: {100 * accuracy:.1f}%")


if __name__ == "__main__":
    main()
