"""Names that gave way to the field's standard terms do not come back, in any source file or page."""

from __future__ import annotations

import io
import re
import tokenize

import helpers
import pytest

#: Former words, by regular expression, and the terms that stand for them.
REPLACED = {
    r"(take_|leave_)?seats?": "thread slots: acquire_slots, release_slots",
    r"(LEAST|MOST)_\w+|_(LEAST|MOST)_\w+": "MIN_*, MAX_*",
    r"grant_team|(own|keep|forget)_helpers|step_aside": "clamp_to_startable_threads, worker accounting, leave_cpu",
    r"take_next|look_at": "atomic_fetch_add, atomic_load",
    r"begin_round|time_is_up|look_around|\w*seconds_of_a_round|(short|long)_rounds": "begin_slice, slice_expired, ...",
    r"go_through|play_round|take_items": "parallel_for, run_slice, worker_loop",
    r"laps?|forward_laps|leave_tile": "steps_per_claim, run_claimed_tiles, release_tile",
    r"run_without": "run_nogil",
    r"AS_THEY_LIE|PANELS": "UNPACKED, PACKED",
    r"x_lies|take_matrix": "x_is_matrix, as_matrix, gather_matrix",
    r"(n|count|find)_lines": "n_valid_steps, count_valid_steps, gather_row_pointers",
    r"move_state": "load_state, store_state",
    r"flush_(enter|leave)|_?neighbours": "enter_ftz, restore_fp_state; may_overlap",
    r"give_back\w*|_?rooms?|Room": "unmap; out buffer; PooledBuffer",
    r"[Nn]ews|of_a_call|SILENCE": "ProgressCallback, progress, None",
    r"(state_)?(in|out)ward": "to_time_major, from_time_major",
    r"Weighted|Passes": "part of the class that they belonged to",
    r"countable|readable": "check_size_overflow, as_aligned",
    r"ours|theirs": "to_native, from_native",
    r"Losses|Watch|Recipe": "ConversionTolerance, EarlyStopping, TrainingConfig",
    r"yardsticks?|mood": "baseline, noise",
    r"origins|covered": "row_offsets, used_range",
    r"Lines|Form|Reader": "MatrixView, Layout, ArrayReader",
    r"clamp_threads|lay_grid|plan_of\w*": "limit_threads, set_tile_grid, make_plan",
}
#: Names that say nothing of what they hold: each has the name of the thing instead.
EMPTY_NAMES = {"found", "told", "wanted", "kept"}
ENDINGS = {".py", ".pyx", ".pxd", ".pyi", ".c", ".h", ".md", ".toml", ".yml", ".sh"}
FOLDERS = ("indygru_cpu", "tests", "tools", "benchmarks", "docs", "examples")
#: Logs of measurements, data, and generated files.
EXCLUDED = re.compile(r"tests/data/|benchmarks/history/|_engine/_core\.c$|_engine/_core_api\.h$|CHANGELOG\.md$")


def sources():
    """Every source file and page, by its path below the root."""
    paths = [path for path in helpers.ROOT.iterdir() if path.is_file()]
    paths += [path for folder in FOLDERS for path in (helpers.ROOT / folder).rglob("*")]
    names = {path.relative_to(helpers.ROOT).as_posix(): path for path in sorted(paths) if path.suffix in ENDINGS}
    return {name: path for name, path in names.items() if not EXCLUDED.search(name) and name != OWN_NAME}


OWN_NAME = "tests/build/test_vocabulary.py"
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in sources().items()}


def test_sources_include_every_kind():
    assert {"README.md", "setup.py", "indygru_cpu/layer.py", "indygru_cpu/_engine/_core.pyx"} <= TEXTS.keys()
    assert any(name.startswith("indygru_cpu/_engine/csrc/") for name in TEXTS)


@pytest.mark.parametrize("word", REPLACED)
def test_replaced_word_is_in_no_source(word):
    pattern = re.compile(rf"(?<![\w.-])(?:{word})(?![\w-])")
    lines = [
        f"{name}:{number}: {line.strip()}"
        for name, text in TEXTS.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not lines, f"write instead: {REPLACED[word]}"


def test_python_names_say_what_they_hold():
    names = [
        f"{path}:{token.start[0]}: {token.string}"
        for path, text in TEXTS.items()
        if path.endswith((".py", ".pyi"))
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.NAME and token.string in EMPTY_NAMES
    ]
    assert not names
