"""The C driver, check.sh, and the comparison of instruction counts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import helpers
import pytest

from indygru_cpu._engine import _core

sys.path.insert(0, str(helpers.ROOT / "tools"))
import build_driver
import callgrind
import instructions
import tiny_calls

needs_compiler = pytest.mark.skipif(not shutil.which(build_driver.compiler()[0]), reason="needs a C compiler")
RELEASE = {"forward_tile f32 baseline": 40.0, "forward_tile f32 x86_v3": 13.0}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Build the driver with sanitizers if the compiler has them, without optimisation, which is faster to build."""
    folder = tmp_path_factory.mktemp("driver")
    strict = ("-O0", "-Wall", "-Wextra", "-Werror")
    try:
        return build_driver.build_driver(folder, *strict, "-fsanitize=address,undefined", "-fno-sanitize-recover")
    except SystemExit:
        return build_driver.build_driver(folder, *strict)


def ask(driver, *arguments, status=0):
    done = subprocess.run([driver, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def bits_of(lines):
    """Return hashes of the results by tier, then by job and dtype, without panels: their width depends on the tier."""
    hashes = {}
    for job, dtype, tier, _, bits in map(str.split, lines):
        if job != "pack_panels":
            hashes.setdefault(tier, {})[job, dtype] = bits
    return hashes


@needs_compiler
def test_driver_all_jobs_match_scalar_c(driver):
    """Each job in every tier and dtype: eight sizes, seven activations with a reset gate and without; full,
    with lengths, and with row offsets."""
    jobs = [line.split()[0] for line in ask(driver, "jobs").splitlines()]
    assert ask(driver, "tiers").split() == list(_core.tiers())
    lines = ask(driver, "all").splitlines()
    assert [line.split()[:3] for line in lines] == [
        [job, dtype, tier] for tier in _core.tiers() for dtype in ("f32", "f64") for job in jobs
    ]
    assert {line.split()[3] for line in lines} == {str(8 * 7 * 2 * 3)}
    with_fma = [bits for tier, bits in bits_of(lines).items() if tier != "baseline"]
    assert all(bits == with_fma[0] for bits in with_fma)


@needs_compiler
def test_driver_threads_have_the_bits_of_one_thread(driver):
    assert ask(driver, "threads").splitlines() == [
        f"{dtype} {tier}" for tier in _core.tiers() for dtype in ("f32", "f64")
    ]


@needs_compiler
def test_driver_runtime_checks_pass(driver):
    assert ask(driver, "runtime") == ""


@needs_compiler
@pytest.mark.parametrize(
    ("job", "work"), [("forward_tile", 64 * 128 * 64), ("project_batch", 96 * 384 * 256), ("pack_panels", 384 * 256)]
)
def test_driver_job_prints_its_amount_of_work(driver, job, work):
    assert int(ask(driver, job, "f32", "baseline")) == work


@needs_compiler
@pytest.mark.parametrize("arguments", [["every"], ["forward_tile", "f32"], ["forward_tile", "f16", "baseline"], []])
def test_driver_unknown_arguments_exit_with_status_2(driver, arguments):
    assert ask(driver, *arguments, status=2).startswith("driver: ")


@needs_compiler
def test_describe_compiler_has_name_version_and_architecture():
    name, version, machine = instructions.describe_compiler().split()
    assert name in ("gcc", "clang")
    assert version.endswith(",")
    assert machine


@needs_compiler
def test_release_flags_are_those_of_setup():
    flags = build_driver.release_flags()
    assert flags[0] == "-O3"
    assert all(f'"{flag}"' in (helpers.ROOT / "setup.py").read_text() for flag in flags)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("gcc 12.2, x86_64", True),
        ("gcc 12.4, x86_64", True),
        ("gcc 13.2, x86_64", False),
        ("clang 12.2, x86_64", False),
        ("gcc 12.2, aarch64", False),
    ],
)
def test_is_comparable_ignores_the_minor_version(other, expected):
    assert instructions.is_comparable("gcc 12.2, x86_64", other) is expected


@pytest.mark.parametrize(
    ("counts", "failures", "unsupported"),
    [
        ({"forward_tile f32 baseline": 42.0, "forward_tile f32 x86_v3": 9.0}, [], []),
        (
            {"forward_tile f32 baseline": 42.1, "forward_tile f32 x86_v3": 13.0},
            ["expected at most 1.05 x 40, got 42.1 (+5.2%)"],
            [],
        ),
        ({"forward_tile f32 baseline": 40.0}, [], ["forward_tile f32 x86_v3"]),
        ({**RELEASE, "activate f32 baseline": 3.0}, ["activate f32 baseline: not in"], []),
        ({"activate f32 x86_v3": 3.0}, ["not in", "forward_tile f32 x86_v3: in"], ["forward_tile f32 baseline"]),
    ],
)
def test_compare_reports_increases_and_unknown_jobs(counts, failures, unsupported):
    texts, missing = instructions.compare(counts, RELEASE)
    assert len(texts) == len(failures)
    assert all(words in text for words, text in zip(failures, texts, strict=True))
    assert missing == unsupported


def test_check_status_is_1_for_an_increase_and_0_for_another_compiler(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(instructions, "RELEASE", tmp_path / "instructions.json")
    instructions.RELEASE.write_text(json.dumps({"compiler": "gcc 12.2, x86_64", "instructions": RELEASE}))
    slow = {key: 1.06 * value for key, value in RELEASE.items()}
    assert instructions.check(RELEASE, "gcc 12.3, x86_64") == 0
    assert "2 counts compared, 0 failures" in capsys.readouterr().out
    assert instructions.check(slow, "gcc 12.2, x86_64") == 1
    assert "FAILED: forward_tile f32 baseline: expected at most 1.05 x 40, got 42.4 (+6.0%)" in capsys.readouterr().out
    assert instructions.check(slow, "gcc 13.1, x86_64") == 0
    assert capsys.readouterr().out.startswith("NOT COMPARED: ")


VERSIONS = {"compiler": "gcc 12.2, x86_64", "tier": "x86_v3", "Python": "3.11.7 (main)", "NumPy": "2.4.6"}
CALLS = {"numpy.add f32 x86_v3": 4000.0, "layer(x) f32 x86_v3": 20000.0}


@pytest.mark.parametrize(
    ("counts", "versions", "status", "text"),
    [
        (CALLS, VERSIONS, 0, "2 counts compared, 0 failures"),
        (CALLS, VERSIONS | {"compiler": "gcc 12.3, x86_64"}, 0, "2 counts compared, 0 failures"),
        (
            CALLS | {"layer(x) f32 x86_v3": 22000.0}, VERSIONS, 1,
            "FAILED: layer(x) f32 x86_v3: expected at most 1.05 x 2e+04, got 2.2e+04 (+10.0%)",
        ),
        ({"numpy.add f32 x86_v3": 4000.0}, VERSIONS, 1, "layer(x) f32 x86_v3: in"),
        ({"layer(x) f32 x86_v3": 1e6}, VERSIONS | {"NumPy": "2.5.0"}, 0, "NumPy: 2.4.6 there, 2.5.0 here"),
        ({"layer(x) f32 x86_v3": 1e6}, VERSIONS | {"Python": "3.12.1"}, 0, "NOT COMPARED: "),
        ({"layer(x) f32 baseline": 1e6}, VERSIONS | {"tier": "baseline"}, 0, "tier: x86_v3 there, baseline here"),
        ({"layer(x) f32 x86_v3": 1e6}, VERSIONS | {"compiler": "clang 12.2, x86_64"}, 0, "NOT COMPARED: "),
    ],
)  # fmt: skip
def test_check_calls_compares_counts_of_equal_versions_only(
    monkeypatch, tmp_path, capsys, counts, versions, status, text
):
    monkeypatch.setattr(instructions, "RELEASE", tmp_path / "instructions.json")
    instructions.RELEASE.write_text(json.dumps({"calls": {"versions": VERSIONS, "instructions": CALLS}}))
    assert instructions.check_calls(counts, versions) == status
    assert text in capsys.readouterr().out


CALLGRIND_OUTPUT = """\
version: 1
desc: Trigger: --dump-before=marker
positions: line
events: Ir
summary: 1000

fl=(1) core.c
fn=(1) infer
10 100
cfn=(2) read_array
calls=2 30
+3 60
cfn=(3) infer'2
calls=1 10
* 40

fn=(2)
30 60

fn=(3)
-2 40
"""


def test_parse_profile_adds_callees_and_knows_who_calls_whom():
    profile = callgrind.parse_profile(CALLGRIND_OUTPUT)
    assert profile.total == 1000
    assert profile.functions == {"infer": 240, "read_array": 60}
    assert profile.calls == {("infer", "read_array"): 60, ("infer", "infer"): 40}
    assert profile.matching(".*_array") == 60
    assert profile.matching("array") == 0
    assert profile.matching_calls("infer", "read_.*") == 60


def test_profile_difference_is_the_cost_of_one_call():
    one = callgrind.Profile(1000, {"infer": 500}, {})
    two = callgrind.Profile(1800, {"infer": 900, "late": 40}, {("infer", "late"): 40})
    assert two.difference(one, 4) == callgrind.Profile(200, {"infer": 100, "late": 10}, {("infer", "late"): 10})


def test_stages_add_up_to_all_instructions():
    infer, read, weights = (
        "__pyx_pw_x_BoundLayer_7infer",
        "__pyx_f_x_core_read_array",
        "__pyx_f_x_BoundLayer_read_weights",
    )
    plan, kernels = "__pyx_f_x_BoundLayer_plan_layer", "__pyx_f_x_tiles_run_steps"
    functions = {infer: 800, read: 150, weights: 120, plan: 200, kernels: 300, "__pyx_pw_x_core_29new_array": 50}
    profile = callgrind.Profile(1000, functions, {(weights, read): 60, (plan, weights): 120})
    assert list(instructions.stages(profile).values()) == [200, 90, 120, 50, 80, 300, 160]
    reference = callgrind.Profile(400, {}, {})
    lines = instructions.stages_table({"numpy.add": reference, "layer(x)": profile}).splitlines()
    assert lines[0] == "| stage | `layer(x)` |"
    assert lines[-2:] == ["| all | 1,000 |", "| all / `numpy.add` | 2.5 |"]


def test_write_stages_writes_between_its_marks(monkeypatch, tmp_path):
    monkeypatch.setattr(instructions, "PAGE", tmp_path / "speed.md")
    profile = callgrind.Profile(400, {}, {})
    calls = instructions.Calls({"numpy.add": profile, "layer(x)": profile}, VERSIONS)
    instructions.PAGE.write_text("before\nafter\n")
    with pytest.raises(SystemExit, match="expected the marks"):
        instructions.write_stages(calls)
    instructions.PAGE.write_text("before\n{}\nold\n{}\nafter\n".format(*instructions.PAGE_MARKS))
    instructions.write_stages(calls)
    text = instructions.PAGE.read_text()
    assert text.startswith(f"before\n{instructions.PAGE_MARKS[0]}\n| stage |")
    assert text.endswith(f"NumPy 2.4.6.\n{instructions.PAGE_MARKS[1]}\nafter\n")


def test_page_has_the_marks_of_the_stages():
    assert all(mark in instructions.PAGE.read_text(encoding="utf-8") for mark in instructions.PAGE_MARKS)


def test_release_counts_have_every_tiny_call():
    release = json.loads(instructions.RELEASE.read_text())["calls"]
    assert set(release["versions"]) == set(VERSIONS)
    tier = release["versions"]["tier"]
    assert set(release["instructions"]) == {f"{name} f32 {tier}" for name in tiny_calls.calls()}


@pytest.mark.parametrize("name", ["layer(x)", "layer(x,out,h_out)", "forward+backward", "functional.step"])
def test_tiny_calls_run(name):
    assert tiny_calls.calls()[name]() is not None


def test_tiny_calls_prints_what_the_counts_depend_on(monkeypatch, capsys):
    monkeypatch.setattr(tiny_calls, "N_CALLS", 1)
    tiny_calls.main()
    answer = json.loads(capsys.readouterr().out)
    assert answer["n_calls"] == 1
    assert answer["calls"] == list(tiny_calls.calls())
    assert {"compiler", *answer["versions"]} == set(VERSIONS)


def test_main_without_valgrind_exits_with_status_77(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert instructions.main(["--check"]) == 77
    assert "NOT RUN: valgrind is not installed" in capsys.readouterr().err


def test_release_counts_have_every_job():
    """In both dtypes and in the two tiers that valgrind supports."""
    release = json.loads(instructions.RELEASE.read_text())["instructions"]
    jobs = {key.split()[0] for key in release}
    assert {"forward_tile", "backward_tile", "project_batch", "project_row"} <= jobs
    assert set(release) == {f"{j} {d} {t}" for j in jobs for d in instructions.DTYPES for t in ("baseline", "x86_v3")}


def test_table_has_a_row_for_each_job_and_dtype():
    lines = instructions.table(RELEASE, {"forward_tile": "unit-step"}).splitlines()
    assert lines[0] == "| job | dtype | instructions per | baseline | x86_v3 |"
    assert lines[2] == "| forward_tile | f32 | unit-step | 40 | 13 |"


CHECK = helpers.ROOT / "tools" / "check.sh"
needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


def check(*names, **environment):
    done = subprocess.run(
        [shutil.which("bash"), CHECK, *names],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ) | environment,
    )
    return done.returncode, done.stdout + done.stderr


@needs_bash
def test_check_without_a_known_name_exits_with_status_2():
    assert check("asan-and-more")[0] == 2
    status, text = check()
    assert status == 2
    assert "tools/check.sh NAME..." in text


@needs_bash
def test_every_check_is_described_and_in_the_weekly_list():
    status, text = check("list")
    assert status == 0
    descriptions = (CHECK.parent / "README.md").read_text()
    described = re.findall(r"^\| `([\w-]+)` \|", descriptions, re.M)
    weekly = re.search(r'WEEKLY="\$QUICK ([^"]*)"', CHECK.read_text())[1].split()
    quick = re.search(r'QUICK="([^"]*)"', CHECK.read_text())[1].split()
    assert sorted(described) == sorted(quick + weekly) == sorted(text.split())


@needs_bash
def test_check_with_a_missing_tool_has_status_77_unless_another_check_fails(tmp_path):
    for name in ("bash", "dirname", "mkdir"):
        (tmp_path / name).symlink_to(shutil.which(name))
    status, text = check("valgrind", PATH=str(tmp_path))
    assert status == 77
    assert "valgrind: not installed" in text
    assert "== valgrind: NOT RUN" in text
    status, text = check("valgrind", "instructions", PATH=str(tmp_path), PYTHON="/bin/false")
    assert status == 1
    assert "== instructions: FAILED" in text


@pytest.mark.parametrize("name", ["CORE", "MACHINE", "THREADED"])
def test_check_lists_name_existing_test_files(name):
    files = re.search(rf'^{name}="([^"]*)"', CHECK.read_text(), re.M)[1].split()
    assert files
    for file in files:
        assert len(list(helpers.ROOT.glob(f"tests/*/{file}.py"))) == 1, file


def test_check_leaves_out_existing_tests():
    """The expressions of `-k` name parts of the names of single tests."""
    left_out = [
        name for options in re.findall(r'-k "([^"]*)"', CHECK.read_text()) for name in re.findall(r"not (\w+)", options)
    ]
    tests = "".join(path.read_text(encoding="utf-8") for path in helpers.ROOT.glob("tests/*/test_*.py"))
    assert left_out
    assert {name: len(re.findall(rf"^def test_\w*{name}", tests, re.M)) for name in left_out} == dict.fromkeys(
        left_out, 1
    )


@pytest.mark.parametrize("path", sorted(CHECK.parent.glob("mutation/*.toml")), ids=lambda path: path.stem)
def test_mutation_configuration_names_existing_files(path):
    text = path.read_text()
    (module,) = re.findall(r'^module-path = "(.*)"', text, re.M)
    for file in [module, *re.findall(r"tests/\S+\.py", text)]:
        assert (helpers.ROOT / file).is_file(), file
