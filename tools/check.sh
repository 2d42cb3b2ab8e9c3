#!/usr/bin/env bash
# Runs checks by name, and says of each in a line what came of it. tools/README.md tells what each one does.
#
#     tools/check.sh NAME...          such as asan, tiers; or quick, weekly: lists of them
#     tools/check.sh list             all names
#
# Status: 0, all hold; 1, one does not; 77, none failed, but one was not run, because a tool is missing.
# PYTHON (python3) needs what `pip install -e ".[test]"` installs, and the extension must have been built.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD work=$PWD/build/check
python=${PYTHON:-python3} clang=${CLANG:-clang} cross=${CROSS:-aarch64-linux-gnu-}
NOT_RUN=77
DRIVER="all threads runtime"
QUICK="asan ubsan"
WEEKLY="$QUICK tsan valgrind clang processors nehalem-python aarch64 avx512 tiers machines python-dev python-asan
    python-tsan coverage instructions machine-code"
# What runs the kernels, or _core around them, in one process; the rest of the suite is Python.
CORE="test_activations test_kernels test_properties test_golden test_groups test_ragged test_segments test_serving
    test_stacks test_step test_stream test_stream_state test_stream_use test_stream_threads test_threads test_leaks
    test_dropout test_layer test_layer_parameters test_layer_refused test_progress test_reference test_cell_golden
    test_cell_sequences test_cell_lengths test_validation test_validation_memory"
THREADED="test_threads test_stream_threads test_progress test_groups"
# What could see the machine beside the kernels: its BLAS, threads, processors, caches and NumPy.
MACHINE="test_blas test_bits test_tiles test_concurrency test_containers test_fork test_c_threads test_memory_pool
    test_interrupt test_main test_build test_sklearn"
# OpenBLAS's kernels of other processors than this one: without AVX, with AVX2, with AVX-512.
BLAS_CORES="Prescott Haswell Zen SkylakeX"

# needs COMMAND... : ends the check, unless they are all here.
needs() {
    local name
    for name; do
        command -v "$name" > /dev/null || { echo "there is no $name here"; exit $NOT_RUN; }
    done
}

# driver FOLDER FLAG... : the driver, built by $CC, in build/check/FOLDER.
driver() {
    mkdir -p "$work/$1"
    "$python" tools/build_driver.py "$work/$1" "${@:2}"
}

# drive FOLDER [EMULATOR...] : the driver's checks; what they print is in FOLDER/results.
drive() {
    local command
    for command in $DRIVER; do "${@:2}" "$work/$1/driver" "$command" || return; done > "$work/$1/results"
}

# package FOLDER FLAG... : a copy of the package and its tests, built with flags that come after setup.py's own.
package() {
    local folder=$work/$1/package
    rm -rf "$folder" && mkdir -p "$folder"
    git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C "$folder" || return
    printf '#!/bin/sh\nexec %s "$@" %s\n' "${CC:-cc}" "${*:2}" > "$work/$1/cc" && chmod +x "$work/$1/cc"
    (cd "$folder" && INDYGRU_CPU_OPENMP=1 ASAN_OPTIONS=detect_leaks=0 CC=$work/$1/cc "$python" setup.py -q build_ext --inplace) > "$work/$1/build.log" 2>&1 ||
        { tail -20 "$work/$1/build.log"; return 1; }
}

# suite FOLDER VARIABLE=VALUE... -- OPTION... : CORE's tests of a package, file by file, each with a time limit; what
# they print is in $logs. A sanitizer needs --capture=sys: what pytest has caught dies with the process, or is dropped.
suite() {
    local folder=$1 file status worst=0 settings=()
    mkdir -p "$logs"
    shift
    while [ "$1" != -- ]; do settings+=("$1"); shift; done
    shift
    for file in ${TESTS:-$CORE}; do
        (cd "$work" && env PYTHONPATH="$folder" "${settings[@]}" timeout "${TIMEOUT:-600}" "${runner[@]}" "$python" "${interpreter[@]}" \
            -m pytest "$folder/tests/$file.py" -c "$folder/pyproject.toml" --rootdir "$folder" -p no:cacheprovider -v \
            "$@") > "$logs/$file.log" 2>&1
        status=$?
        echo "  $file: $(tail -1 "$logs/$file.log" | tr -d =)$([ $status -ne 124 ] || echo ': out of time')"
        [ $status -eq 0 ] || { worst=1; grep -E '^(FAILED|ERROR)|==[0-9]+==ERROR|runtime error|WARNING: Thread' "$logs/$file.log"; }
    done
    return $worst
}

check_asan() { driver asan -O1 -g -fsanitize=address -fno-omit-frame-pointer && drive asan; }

check_ubsan() { driver ubsan -O1 -g -fsanitize=undefined -fno-sanitize-recover && drive ubsan; }

check_tsan() { driver tsan -O1 -g -fsanitize=thread && "$work/tsan/driver" threads; }

check_valgrind() {
    needs valgrind
    driver valgrind -O1 -g && DRIVER="all threads" drive valgrind valgrind -q --error-exitcode=1 --leak-check=full
}

check_clang() {
    needs "$clang"
    CC=$clang driver clang -Wall -Wextra -Werror && drive clang && driver static -static && drive static && same_bits clang static
}

# same_bits FOLDER OTHER : both have the same results, line by line; they know the same tiers.
same_bits() { diff "$work/$1/results" "$work/$2/results" && echo "the same bits: $(wc -l < "$work/$1/results") lines"; }

# bits FOLDER TIER : the hashes of a tier's results. Panels are as wide as a tier's vectors, so they differ.
bits() { sed -n "s/ $2 / /p" "$work/$1/results" | grep -v '^pack_panels'; }

# as_x86_v3 FOLDER TIER : that tier has the bits of x86_v3 on this machine.
as_x86_v3() {
    driver static -static && drive static || return
    [ -n "$(bits static x86_v3)" ] || { echo "this machine has no x86_v3 to compare with"; return $NOT_RUN; }
    [ -n "$(bits "$1" "$2")" ] || { echo "the driver found no $2 there"; return 1; }
    diff <(bits static x86_v3) <(bits "$1" "$2") && echo "the bits of x86_v3: $(bits "$1" "$2" | wc -l) jobs"
}

# Each line: a processor of qemu, and the tiers that it can run.
PROCESSORS="core2duo:
    Nehalem,-popcnt:
    Nehalem: baseline
    Haswell,-avx2: baseline
    Haswell,-fma: baseline
    Haswell,-bmi1: baseline
    Haswell,-bmi2: baseline
    Haswell,-xsave: baseline
    Haswell: baseline x86_v3"

# on_processors PROGRAM : the tiers that it finds on each.
on_processors() {
    local line found worst=0
    while IFS=: read -r name tiers; do
        found=$(qemu-x86_64 -cpu "${name// /}" "$1" tiers 2> /dev/null | xargs)
        [ "$found" = "${tiers# }" ] || { echo "$name: expected '${tiers# }', found '$found'"; worst=1; }
    done <<< "$PROCESSORS"
    return $worst
}

check_processors() {
    needs qemu-x86_64
    driver static -static && on_processors "$work/static/driver" || return
    driver nehalem -static && drive nehalem qemu-x86_64 -cpu Nehalem && drive static || return
    diff <(grep -w baseline "$work/static/results") "$work/nehalem/results" && echo "the same bits as here"
}

check_nehalem-python() {
    needs qemu-x86_64
    local file
    cd "$work" || return
    PYTHONPATH=$root qemu-x86_64 -cpu Nehalem "$(readlink -f "$("$python" -c 'import sys; print(sys.executable)')")" -c "
import sys; sys.path[:0] = $("$python" -c 'import site; print(site.getsitepackages())') + ['$root/tests']
import helpers, numpy as np
from indygru_cpu._engine import _core
assert _core.tiers() == ('baseline',), _core.tiers()
for shape in [(9, 7, 8, 17), (150, 9, 33, 130), helpers.THROUGH_BLAS[0]]:
    for dtype in helpers.DTYPES:
        case = helpers.random_case(shape, dtype, ragged=True)
        helpers.assert_close(case.run(num_threads=2), case.expected(), dtype)
print('forward and backward hold on', *_core.tiers())
"
}

check_aarch64() {
    needs qemu-aarch64 "${cross}gcc"
    CC=${cross}gcc driver aarch64 -static -Wall -Wextra -Werror && drive aarch64 qemu-aarch64 && as_x86_v3 aarch64 baseline
}

check_avx512() {
    needs bochs busybox cpio grub-mkrescue xorriso mformat
    local kernel
    kernel=${KERNEL:-$(find /boot -name 'vmlinuz-*' 2> /dev/null | sort | tail -1)}
    [ -r "$kernel" ] || { echo "there is no Linux kernel here: KERNEL=path of a vmlinuz"; return $NOT_RUN; }
    driver avx512 -static && tools/bochs.sh "$work/avx512/driver" "$kernel" "$work/avx512" > "$work/avx512/results" &&
        as_x86_v3 avx512 x86_v4
}

check_tiers() {
    local tier worst=0
    for tier in $("$python" -c 'from indygru_cpu._engine import _core; print(*_core.tiers())'); do
        echo " $tier"
        TESTS=${TESTS:-$(cd tests && ls test_*.py | sed 's/\.py$//')} logs=$logs/$tier suite "$root" "INDYGRU_CPU_TIER=$tier" -- || worst=1
    done
    return $worst
}

# numpy_features : those that NumPy found here above its baseline, as NPY_DISABLE_CPU_FEATURES takes them.
numpy_features() {
    "$python" -c "
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(*(name for name in __cpu_dispatch__ if __cpu_features__[name]), sep=',')"
}

# fake_l2 BYTES : builds a library that, loaded first, tells this size of the L2 cache.
fake_l2() {
    "${CC:-cc}" -shared -fPIC -x c -o "$work/l2_$1.so" - << END
#include <unistd.h>
long __sysconf(int name);
long sysconf(int name) { return name == _SC_LEVEL2_CACHE_SIZE ? $1 : __sysconf(name); }
END
}

# as_machine NAME VARIABLE=VALUE... : the suite with what another machine has.
as_machine() {
    echo " $1"
    TESTS=${TESTS:-$CORE $MACHINE} logs=$logs/$1 suite "$root" "${@:2}" --
}

check_machines() {
    needs taskset
    local each worst=0 features
    for each in $BLAS_CORES; do as_machine "blas-$each" "OPENBLAS_CORETYPE=$each" || worst=1; done
    for each in 1 3 64; do as_machine "threads-$each" "OMP_NUM_THREADS=$each" || worst=1; done
    for each in 0 65536 8388608; do
        fake_l2 $each && as_machine "l2-$each" "LD_PRELOAD=$work/l2_$each.so" || worst=1
    done
    features=$(numpy_features) && as_machine numpy-baseline ${features:+"NPY_DISABLE_CPU_FEATURES=$features"} || worst=1
    runner=(taskset -c "$("$python" -c 'import os; print(min(os.sched_getaffinity(0)))')")
    as_machine one-processor || worst=1
    return $worst
}

check_python-dev() {
    interpreter=(-X dev -W error)
    suite "$root" --
}

# But for two tests that measure memory: the sanitizer needs some of its own, and keeps what was freed.
check_python-asan() {
    package python-asan -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer &&
        suite "$work/python-asan/package" ASAN_OPTIONS=detect_leaks=0 \
            "LD_PRELOAD=$("${CC:-cc}" -print-file-name=libasan.so) $("${CC:-cc}" -print-file-name=libstdc++.so)" -- --capture=sys -k "not memory_of_inference and not ends_early_leaks_nothing"
}

# With Clang's OpenMP, which tells the sanitizer through archer what waits for what; GCC's does not. It has a thread more
# than was asked for, so the test that counts them is left out.
check_python-tsan() {
    needs setarch
    local archer folder
    archer=$(find /usr/lib/llvm-*/lib -name libarcher.so 2> /dev/null | sort -V | tail -1)
    [ -n "$archer" ] || { echo "there is no libarcher.so here, of LLVM's OpenMP"; return $NOT_RUN; }
    folder=$(dirname "$archer")
    TSAN_OPTIONS=exitcode=0 package python-tsan -g -fsanitize=thread || return
    runner=(setarch --addr-no-randomize)
    TESTS=${TESTS:-$THREADED} suite "$work/python-tsan/package" "LD_LIBRARY_PATH=$folder" \
        "LD_PRELOAD=$("${CC:-cc}" -print-file-name=libtsan.so) $folder/libomp.so.5" \
        TSAN_OPTIONS=ignore_noninstrumented_modules=1 -- --capture=sys -k "(thread or progress) and not asked_for_are_used"
}

check_coverage() {
    needs gcov gcovr qemu-x86_64
    rm -rf "$work/coverage"
    driver coverage -O0 --coverage -DINLINE=static && drive coverage && on_processors "$work/coverage/driver" &&
        gcovr --root indygru_cpu/_engine/csrc --print-summary --fail-under-line 95 --fail-under-branch 95 "$work/coverage"
}

check_instructions() { "$python" tools/instructions.py --check; }

check_machine-code() { needs objdump && "$python" tools/machine_code.py; }

one() {
    local status output
    declare -F "check_$1" > /dev/null || { echo "tools/check.sh: there is no check $1: see tools/check.sh list" >&2; exit 2; }
    (runner=() interpreter=() logs=$work/logs/$1 && "check_$1")
    status=$?
    case $status in
        0) echo "== $1: holds" ;;
        "$NOT_RUN") echo "== $1: NOT RUN" ;;
        *) echo "== $1: FAILED" ;;
    esac
    return $status
}

main() {
    local name status failed=0 missing=0 names=()
    [ $# -gt 0 ] || { sed -n '2,/^set/p' "$0" | grep '^#' >&2; exit 2; }
    for name; do
        case $name in
            list) declare -F | sed -n 's/^declare -f check_//p'; exit ;;
            quick) names+=($QUICK) ;;
            weekly) names+=($WEEKLY) ;;
            *) names+=("$name") ;;
        esac
    done
    mkdir -p "$work"
    for name in "${names[@]}"; do
        one "$name"
        status=$?
        case $status in 0) ;; "$NOT_RUN") missing=1 ;; *) failed=1 ;; esac
    done
    [ $failed -eq 0 ] || exit 1
    [ $missing -eq 0 ] || exit $NOT_RUN
}

{ main "$@"; exit; } # in one piece: bash reads a script as it goes, and someone may edit it
