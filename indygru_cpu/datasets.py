"""Data sets included in the package."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import numpy as np

from indygru_cpu._typing import Array


class Utterances(NamedTuple):
    """Utterances of different lengths, zero-padded to the longest.

    Attributes
    ----------
    x : array, (T, B, 12), float32
        Frames in the time-major layout of `IndyGRU`; 0 after the end of an utterance.
    lengths : array, (B,), intp
        Number of frames of each utterance: ``x[:lengths[i], i]`` is utterance i.
    speakers : array, (B,), intp
        The speaker of each utterance, 0 to 8.
    """

    x: Array
    lengths: Array
    speakers: Array

    @property
    def valid(self) -> Array:
        """Mask (T, B) of the frames that are not padding; ``x[valid]`` has all frames."""
        return np.arange(len(self.x))[:, None] < self.lengths

    def select(self, rows: Array) -> Utterances:
        """Select utterances by index or mask of the batch axis. T does not change."""
        return Utterances(self.x[:, rows], self.lengths[rows], self.speakers[rows])


class JapaneseVowels(NamedTuple):
    """The training and test sets, as split in the original archive."""

    train: Utterances
    test: Utterances


def japanese_vowels() -> JapaneseVowels:
    """Read the Japanese Vowels data set: utterances of /ae/ by nine speakers, for speaker classification.

    Returns
    -------
    JapaneseVowels
        ``train`` has 270 utterances of 7 to 26 frames, 30 per speaker, and x of shape (26, 270, 12). ``test`` has 370
        utterances of 7 to 29 frames, 24 to 88 per speaker, and x of shape (29, 370, 12). A frame has 12 LPC cepstrum
        coefficients, which are not standardized. Every call returns new arrays.

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
    >>> (y.sum(axis=0) / train.lengths[:, None]).shape  # mean states: y is 0 after the end of an utterance
    (270, 5)
    """
    with files("indygru_cpu").joinpath("data/japanese_vowels.npz").open("rb") as file:
        stored = dict(np.load(file, allow_pickle=False))
    keys = ("values", "lengths", "speakers")
    return JapaneseVowels(*(_pad(*(stored[f"{part}_{key}"] for key in keys)) for part in JapaneseVowels._fields))


def _pad(values: Array, lengths: Array, speakers: Array) -> Utterances:
    """Make padded utterances from concatenated frames and speakers 1 to 9."""
    shape = (int(lengths.max()), len(lengths), values.shape[1])
    utterances = Utterances(np.zeros(shape, values.dtype), lengths.astype(np.intp), speakers.astype(np.intp) - 1)
    # The frames are ordered by utterance, so the assignment needs a batch-major view.
    utterances.x.swapaxes(0, 1)[utterances.valid.T] = values
    return utterances
