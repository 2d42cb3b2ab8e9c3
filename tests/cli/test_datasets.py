"""The data sets included in the package: sizes, content, attribution."""

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
def test_parts_have_the_documented_sizes(data, part, n_steps, n_utterances, n_frames, per_speaker):
    utterances = getattr(data, part)
    assert utterances.x.shape == (n_steps, n_utterances, 12)
    assert utterances.x.dtype == np.float32
    assert utterances.lengths.shape == utterances.speakers.shape == (n_utterances,)
    assert utterances.lengths.dtype == utterances.speakers.dtype == np.intp
    assert (utterances.lengths.min(), utterances.lengths.max(), utterances.lengths.sum()) == (7, n_steps, n_frames)
    assert np.bincount(utterances.speakers).tolist() == per_speaker


def test_frames_equal_those_of_the_file_and_padding_is_zero(data):
    stored = np.load(files("indygru_cpu") / "data" / "japanese_vowels.npz", allow_pickle=False)
    for name, part in data._asdict().items():
        ends = np.cumsum(stored[f"{name}_lengths"])
        for i, utterance in enumerate(np.split(stored[f"{name}_values"], ends[:-1])):
            np.testing.assert_array_equal(part.x[: part.lengths[i], i], utterance)
        np.testing.assert_array_equal(part.speakers + 1, stored[f"{name}_speakers"])
        assert np.isfinite(part.x).all()
        assert not part.x[~part.valid].any()


def test_frames_are_not_standardized(data):
    """Compared with the numbers of the archive's text file."""
    first = [1.860936, -0.207383, 0.261557, -0.214562, -0.171253, -0.118167]
    np.testing.assert_allclose(data.train.x[0, 0, :6], first, rtol=1e-6)
    frames = data.train.x[data.train.valid]
    np.testing.assert_allclose(frames.mean(axis=0)[:3], [0.86911, -0.55450, 0.24611], atol=1e-4)
    np.testing.assert_allclose(frames.std(axis=0)[:3], [0.48762, 0.39118, 0.30090], atol=1e-4)


def test_every_call_returns_new_arrays(data):
    changed = datasets.japanese_vowels()
    changed.train.x[...] = 7
    assert not (data.train.x == 7).any()
    assert not (datasets.japanese_vowels().train.x == 7).any()


def test_select_copies_the_rows_of_all_arrays(data):
    rows = np.array([269, 3, 17])
    selected = data.train.select(rows)
    np.testing.assert_array_equal(selected.x, data.train.x[:, [269, 3, 17]])
    np.testing.assert_array_equal(selected.lengths, data.train.lengths[[269, 3, 17]])
    np.testing.assert_array_equal(selected.speakers, data.train.speakers[[269, 3, 17]])
    np.testing.assert_array_equal(selected.valid.sum(axis=0), selected.lengths)


def test_attribution_is_included():
    text = (files("indygru_cpu") / "data" / "README.md").read_text(encoding="utf-8")
    for phrase in ("CC BY 4.0", "UCI Machine Learning Repository", "Kudo", "Toyama", "Shimbo"):
        assert phrase in text


def test_docstring_examples_run():
    results = doctest.testmod(datasets)
    assert results.attempted > 3
    assert not results.failed
