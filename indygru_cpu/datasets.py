"""Data that comes with the package."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import numpy as np

from indygru_cpu._typing import Array


class Utterances(NamedTuple):
    """Utterances of different lengths, padded with zeros to the longest.

    Attributes
    ----------
    x : array, (T, B, 12), float32
        Frames, time-major, as an `IndyGRU` takes them; 0 past the end of an utterance.
    lengths : array, (B,), intp
        Frames of each utterance: ``x[:lengths[i], i]`` is utterance i.
    speakers : array, (B,), intp
        Who spoke, from 0 to 8.
    """

    x: Array
    lengths: Array
    speakers: Array

    @property
    def valid(self) -> Array:
        """(T, B) bool: whether there is a frame, not padding; ``x[valid]`` is all frames."""
        return np.arange(len(self.x))[:, None] < self.lengths

    def select(self, rows: Array) -> Utterances:
        """Take some of the utterances, by index or mask of the batch axis; T stays."""
        return Utterances(self.x[:, rows], self.lengths[rows], self.speakers[rows])


class JapaneseVowels(NamedTuple):
    """The two parts of the data set, split as the archive splits it."""

    train: Utterances
    test: Utterances


def japanese_vowels() -> JapaneseVowels:
    """Read the Japanese Vowels data: nine speakers utter /ae/; tell who speaks.

    Returns
    -------
    JapaneseVowels
        ``train``, 270 utterances of 7 to 26 frames, 30 a speaker, x of shape (26, 270, 12); and ``test``, 370
        utterances of 7 to 29 frames, 24 to 88 a speaker, x of shape (29, 370, 12). A frame is 12 LPC cepstrum
        coefficients, as recorded: nothing is standardised. The arrays are new at every call.

    Notes
    -----
    Source: UCI Machine Learning Repository, "Japanese Vowels", https://doi.org/10.24432/C5NS47.
    Licence: CC BY 4.0.

    References
    ----------
    M. Kudo, J. Toyama, M. Shimbo, "Multidimensional Curve Classification Using Passing-Through Regions",
    Pattern Recognition Letters 20(11-13), 1999. Their test accuracy is 94.1 %.

    Examples
    --------
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.datasets import japanese_vowels
    >>> train, test = japanese_vowels()
    >>> train.x.shape, test.x.shape, train.x.dtype
    ((26, 270, 12), (29, 370, 12), dtype('float32'))
    >>> y, h_n = IndyGRU(12, 5, seed=0)(train.x, lengths=train.lengths)
    >>> (y.sum(axis=0) / train.lengths[:, None]).shape  # mean states: past the end of an utterance y is 0
    (270, 5)
    """
    with files("indygru_cpu").joinpath("data/japanese_vowels.npz").open("rb") as file:
        stored = dict(np.load(file, allow_pickle=False))
    keys = ("values", "lengths", "speakers")
    return JapaneseVowels(*(_padded(*(stored[f"{part}_{key}"] for key in keys)) for part in JapaneseVowels._fields))


def _padded(values: Array, lengths: Array, speakers: Array) -> Utterances:
    """From all frames in one row, utterance after utterance, and speakers 1 to 9."""
    shape = (int(lengths.max()), len(lengths), values.shape[1])
    found = Utterances(np.zeros(shape, values.dtype), lengths.astype(np.intp), speakers.astype(np.intp) - 1)
    # The frames come utterance by utterance, so they go in through a batch-major view.
    found.x.swapaxes(0, 1)[found.valid.T] = values
    return found
