"""Speaker classification for 100 simulated microphones in one process with asyncio, frame by frame as they arrive.

pip install indygru_cpu && python examples/asyncio_microphones.py
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from indygru_cpu import IndyGRU, StreamPool
from indygru_cpu.datasets import japanese_vowels

N_MICROPHONES, SECONDS_PER_FRAME = 100, 0.01
train, test = japanese_vowels()
layer = IndyGRU(12, 256, seed=0)
features = layer(train.x, lengths=train.lengths)[0].sum(axis=0) / train.lengths[:, None]
readout = np.linalg.lstsq(features, np.eye(9)[train.speakers], rcond=1e-3)[0]

pool = StreamPool(layer, N_MICROPHONES)
waiting: dict[int, Any] = {}  # frame and future of each microphone whose frame has arrived
latencies: list[float] = []


def push_waiting() -> None:
    """Take one step of all microphones whose frames have arrived."""
    for client, y_t in pool.push({client: frame for client, (frame, _) in waiting.items()}).items():
        waiting.pop(client)[1].set_result(y_t)


async def microphone(client: int) -> int:
    """Send the frames of every hundredth utterance. Returns the number of speakers that were recognised."""
    n_recognised, loop = 0, asyncio.get_running_loop()
    due = loop.time() + SECONDS_PER_FRAME * client / N_MICROPHONES
    for i in range(client, len(test.lengths), N_MICROPHONES):
        total = np.zeros(layer.hidden_size, np.float32)
        for x_t in test.x[: test.lengths[i], i]:
            await asyncio.sleep(due - loop.time())
            if not waiting:
                loop.call_soon(push_waiting)
            waiting[client] = x_t, (result := loop.create_future())
            total += await result
            latencies.append(loop.time() - due)
            due += SECONDS_PER_FRAME
        pool.remove(client)  # the next utterance begins with a state of zeros
        n_recognised += (total / test.lengths[i] @ readout).argmax() == test.speakers[i]
    return n_recognised


async def main() -> None:
    """Run all microphones."""
    recognised = await asyncio.gather(*map(microphone, range(N_MICROPHONES)))
    median, p99 = np.percentile(latencies, [50, 99])
    print(f"{len(latencies)} frames, from due to done: median {1e3 * median:.2f} ms, p99 {1e3 * p99:.2f} ms")
    print(f"Test accuracy: {100 * sum(recognised) / len(test.lengths):.1f}%")


asyncio.run(main())
