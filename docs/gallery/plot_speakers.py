"""
Who is speaking?
================

Nine speakers utter the same two vowels. A classifier of whole sequences learns to tell them apart, and then predicts
during an utterance, frame by frame.
"""

import matplotlib.pyplot as plt
import numpy as np

from indygru_cpu.datasets import japanese_vowels
from indygru_cpu.sklearn import IndyGRUClassifier

train, test = japanese_vowels()


def utterances(part):
    return [part.x[:length, i] for i, length in enumerate(part.lengths)]  # each (frames, 12)


model = IndyGRUClassifier(hidden_size=32, max_iter=20, random_state=0)
model.fit(utterances(train), train.speakers)

# %%
# The classifier was trained on complete utterances. Here it gets the beginnings of the test utterances.
heard = np.arange(1, 21)
accuracy = [model.score([frames[:n] for frames in utterances(test)], test.speakers) for n in heard]

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.semilogy(range(1, len(model.loss_curve_) + 1), model.loss_curve_)
left.set(xlabel="epoch", title="Loss", xticks=[1, 5, 10, 15, 20])
right.plot(heard, accuracy, color="tab:orange")
right.axhline(1 / 9, color="0.6", linestyle="--", label="chance")
right.set(xlabel="frames heard", title="Accuracy on new utterances", ylim=(0, 1.02), xticks=[1, 5, 10, 15, 20])
right.legend(loc="lower right")
print(f"all frames: {model.score(utterances(test), test.speakers):.1%}")
