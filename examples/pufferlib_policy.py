"""A recurrent policy of PufferLib on a CPU, from its state dict: encoder, minGRU layers with highway gates, decoder.

The checkpoint is made up: random weights in PufferLib's layout, and a decoder fitted to recall a cue of the first step.
pip install indygru_cpu && python examples/pufferlib_policy.py
"""

from __future__ import annotations

import numpy as np

from indygru_cpu.interop import from_mingru

CUES, STEPS, UNITS, LAYERS, AGENTS = 4, 8, 128, 2, 1000


class Policy:
    """PufferLib's default policy, which acts for a number of agents at each step."""

    def __init__(self, state_dict: dict[str, np.ndarray], n_agents: int) -> None:
        self.weights, self.layers = state_dict, []
        while (weight := state_dict.get(f"network.layers.{len(self.layers)}.weight")) is not None:
            cell, highway = np.split(weight, [2 * len(weight) // 3])  # rows of candidate and gate, and of the highway
            self.layers.append((from_mingru({"to_hidden_and_gate.weight": cell}).stream(n_agents), highway.T))

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def step(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits (agents, actions), values (agents,) and the decoder's input. The streams keep the states."""
        h = self.linear("encoder.encoder", observations)
        for stream, highway in self.layers:
            share = 1 / (1 + np.exp(-(h @ highway)))
            h = share * stream.push(h) + (1 - share) * h
        return self.linear("decoder.decoder", h), self.linear("decoder.value_function", h)[:, 0], h


def play(state_dict: dict[str, np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cues, and the last logits and decoder inputs, of episodes that show a cue at first and then noise."""
    policy, cues = Policy(state_dict, AGENTS), np.eye(CUES, dtype=np.float32)[rng.integers(CUES, size=AGENTS)]
    noise = 0.1 * rng.standard_normal((STEPS - 1, AGENTS, CUES), np.float32)
    logits, _, h = [policy.step(observations) for observations in (cues, *noise)][-1]
    return cues, logits, h


def main() -> None:
    rng, state_dict = np.random.default_rng(0), {}
    linears = {"encoder.encoder": (UNITS, CUES), "decoder.decoder": (CUES, UNITS), "decoder.value_function": (1, UNITS)}
    for name, shape in linears.items():
        state_dict[f"{name}.weight"] = rng.standard_normal(shape, np.float32)
        state_dict[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    for i in range(LAYERS):
        state_dict[f"network.layers.{i}.weight"] = rng.standard_normal((3 * UNITS, UNITS), np.float32) / UNITS**0.5
    cues, _, h = play(state_dict, rng)
    state_dict["decoder.decoder.weight"] = np.linalg.lstsq(h, cues)[0].T
    cues, logits, _ = play(state_dict, rng)
    print(f"Test accuracy: {100 * np.mean(logits.argmax(axis=1) == cues.argmax(axis=1)):.1f}%")


if __name__ == "__main__":
    main()
