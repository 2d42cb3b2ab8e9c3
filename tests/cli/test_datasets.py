"""The data that comes with the package: sizes, content, and what its documentation promises."""

from __future__ import annotations

import doctest
from importlib.resources import files

import numpy as np
import pytest

from indygru_cpu import datasets


@pytest.fixture(scope="module")
def data():
    return datasets.japanese_vowels()


@pytest.mark.parametrize(
    ("part", "n_steps", "n_utterances", "n_frames", "per_speaker"),
    [
        ("train", 26, 270, 4274, [30] * 9),
        ("test", 29, 370, 5687, [31, 35, 88, 44, 29, 24, 40, 50, 29]),
    ],
)
def test_sizes(data, part, n_steps, n_utterances, n_frames, per_speaker):
    found = getattr(data, part)
    assert found.x.shape == (n_steps, n_utterances, 12)
    assert found.x.dtype == np.float32
    assert found.lengths.shape == found.speakers.shape == (n_utterances,)
    assert found.lengths.dtype == found.speakers.dtype == np.intp
    assert (found.lengths.min(), found.lengths.max(), found.lengths.sum()) == (7, n_steps, n_frames)
    assert np.bincount(found.speakers).tolist() == per_speaker


def test_frames_are_the_files_and_padding_is_zero(data):
    stored = np.load(files("indygru_cpu") / "data" / "japanese_vowels.npz", allow_pickle=False)
    for name, part in data._asdict().items():
        ends = np.cumsum(stored[f"{name}_lengths"])
        for i, utterance in enumerate(np.split(stored[f"{name}_values"], ends[:-1])):
            np.testing.assert_array_equal(part.x[: part.lengths[i], i], utterance)
        np.testing.assert_array_equal(part.speakers + 1, stored[f"{name}_speakers"])
        assert np.isfinite(part.x).all()
        assert not part.x[~part.valid].any()


def test_first_frame_and_scale_are_as_recorded(data):
    """Figures from the archive's text file: nothing is standardised."""
    first = [1.860936, -0.207383, 0.261557, -0.214562, -0.171253, -0.118167]
    np.testing.assert_allclose(data.train.x[0, 0, :6], first, rtol=1e-6)
    frames = data.train.x[data.train.valid]
    np.testing.assert_allclose(frames.mean(axis=0)[:3], [0.86911, -0.55450, 0.24611], atol=1e-4)
    np.testing.assert_allclose(frames.std(axis=0)[:3], [0.48762, 0.39118, 0.30090], atol=1e-4)


def test_every_call_gives_new_arrays(data):
    again = datasets.japanese_vowels()
    again.train.x[...] = 7
    assert not (data.train.x == 7).any()
    assert not (datasets.japanese_vowels().train.x == 7).any()


def test_select(data):
    rows = np.array([269, 3, 17])
    found = data.train.select(rows)
    np.testing.assert_array_equal(found.x, data.train.x[:, [269, 3, 17]])
    np.testing.assert_array_equal(found.lengths, data.train.lengths[[269, 3, 17]])
    np.testing.assert_array_equal(found.speakers, data.train.speakers[[269, 3, 17]])
    np.testing.assert_array_equal(found.valid.sum(axis=0), found.lengths)


def test_attribution_is_shipped():
    text = (files("indygru_cpu") / "data" / "README.md").read_text(encoding="utf-8")
    for words in ("CC BY 4.0", "UCI Machine Learning Repository", "Kudo", "Toyama", "Shimbo"):
        assert words in text


def test_examples():
    results = doctest.testmod(datasets)
    assert results.attempted > 3
    assert not results.failed
