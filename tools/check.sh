#!/usr/bin/env bash
# Runs checks by name and prints one line with the result of each. tools/README.md describes them.
#
#     tools/check.sh NAME...          such as asan, tiers; quick and weekly are lists of checks
#     tools/check.sh list             all names
#
# Status: 0, all pass; 1, at least one fails; 77, none failed, but at least one was not run because a tool is missing.
# PYTHON (python3) needs the packages of `pip install -e ".[test]"`, and the extension must have been built.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD work=$PWD/build/check
python=${PYTHON:-python3} clang=${CLANG:-clang} cross=${CROSS:-aarch64-linux-gnu-}
NOT_RUN=77
DRIVER="all threads runtime"
QUICK="asan ubsan"
WEEKLY="$QUICK tsan valgrind clang processors nehalem-python aarch64 aarch64-python avx512 tiers machines python-dev
    python-asan python-tsan python-clang coverage instructions machine-code"
# Tests that run the kernels, or the compiled core around them, in one process.
CORE="test_activations test_kernels test_properties test_golden test_groups test_ragged test_segments test_serving
    test_stacks test_step test_stream test_stream_state test_stream_use test_stream_threads test_threads test_leaks
    test_dropout test_layer test_layer_parameters test_layer_refused test_progress test_reference test_cell_golden
    test_cell_sequences test_cell_lengths test_validation test_validation_memory"
THREADED="test_threads test_stream_threads test_progress test_groups"
# A selection for an emulated processor, which needs ten times as long.
EMULATED="test_golden test_activations test_kernels test_step test_threads test_ragged test_layer test_stream
    test_hostile_arguments"
# Tests that could depend on the machine beside the kernels: its BLAS, threads, processors, caches and NumPy.
MACHINE="test_blas test_bits test_tiles test_concurrency test_containers test_fork test_c_threads test_memory_pool
    test_interrupt test_main test_build test_sklearn"
# OpenBLAS's kernels for other processors: without AVX, with AVX2, with AVX-512.
BLAS_CORES="Prescott Haswell Zen SkylakeX"

# needs COMMAND... : ends the check with the status NOT_RUN if a command is missing.
needs() {
    local name
    for name; do
        command -v "$name" > /dev/null || { echo "$name: not installed"; exit $NOT_RUN; }
    done
}

# driver FOLDER FLAG... : builds the driver with $CC in build/check/FOLDER.
driver() {
    mkdir -p "$work/$1"
    "$python" tools/build_driver.py "$work/$1" "${@:2}"
}

# drive FOLDER [EMULATOR...] : runs the driver's checks; their output is in FOLDER/results.
drive() {
    local command
    for command in $DRIVER; do "${@:2}" "$work/$1/driver" "$command" || return; done > "$work/$1/results"
}

# copy FOLDER : copies the package and its tests without files that were built.
copy() {
    rm -rf "$1" && mkdir -p "$1"
    git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C "$1"
}

# package FOLDER FLAG... : builds a copy of the package and its tests with flags that follow setup.py's own.
package() {
    local folder=$work/$1/package
    copy "$folder" || return
    printf '#!/bin/sh\nexec %s "$@" %s\n' "${CC:-cc}" "${*:2}" > "$work/$1/cc" && chmod +x "$work/$1/cc"
    (cd "$folder" && INDYGRU_CPU_OPENMP=1 ASAN_OPTIONS=detect_leaks=0 CC=$work/$1/cc "$python" setup.py -q build_ext --inplace) > "$work/$1/build.log" 2>&1 ||
        { tail -20 "$work/$1/build.log"; return 1; }
}

# test_path FOLDER NAME : the file of a test module; it may be in any folder of the tests.
test_path() {
    local paths
    mapfile -t paths < <(find "$1/tests" -name "$2.py")
    [ ${#paths[@]} -eq 1 ] || { echo "$2: expected one file of that name in tests, got ${#paths[@]}" >&2; return 1; }
    echo "${paths[0]}"
}

# suite FOLDER VARIABLE=VALUE... -- OPTION... : runs the tests of a package, file by file, each with a time limit; their
# output is in $logs. A sanitizer needs --capture=sys: output that pytest holds is lost if the process ends.
suite() {
    local folder=$1 file path status worst=0 settings=()
    mkdir -p "$logs"
    shift
    while [ "$1" != -- ]; do settings+=("$1"); shift; done
    shift
    for file in ${TESTS:-$CORE}; do
        path=$(test_path "$folder" "$file") || { worst=1; continue; }
        (cd "$work" && env PYTHONPATH="$folder" "${settings[@]}" timeout "${TIMEOUT:-600}" "${runner[@]}" "$python" "${interpreter[@]}" \
            -m pytest "$path" -c "$folder/pyproject.toml" --rootdir "$folder" -p no:cacheprovider -v \
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

# same_bits FOLDER OTHER : compares the results of two drivers that support the same tiers, line by line.
same_bits() { diff "$work/$1/results" "$work/$2/results" && echo "the same bits: $(wc -l < "$work/$1/results") lines"; }

# bits FOLDER TIER : the hashes of a tier's results. Panels have the width of a tier's vectors and differ between tiers.
bits() { sed -n "s/ $2 / /p" "$work/$1/results" | grep -v '^pack_panels'; }

# as_x86_v3 FOLDER TIER : compares the results of a tier with the bits of x86_v3 on this machine.
as_x86_v3() {
    driver static -static && drive static || return
    [ -n "$(bits static x86_v3)" ] || { echo "x86_v3: not available on this machine"; return $NOT_RUN; }
    [ -n "$(bits "$1" "$2")" ] || { echo "$2: not detected by the driver"; return 1; }
    diff <(bits static x86_v3) <(bits "$1" "$2") && echo "the bits of x86_v3: $(bits "$1" "$2" | wc -l) jobs"
}

# Each line: a processor of qemu and the tiers that it can run.
PROCESSORS="core2duo:
    Nehalem,-popcnt:
    Nehalem: baseline
    Haswell,-avx2: baseline
    Haswell,-fma: baseline
    Haswell,-bmi1: baseline
    Haswell,-bmi2: baseline
    Haswell,-xsave: baseline
    Haswell: baseline x86_v3"

# on_processors PROGRAM : compares the tiers that the driver detects on each processor with the expected ones.
on_processors() {
    local name tiers detected worst=0
    while IFS=: read -r name tiers; do
        detected=$(qemu-x86_64 -cpu "${name// /}" "$1" tiers 2> /dev/null | xargs)
        [ "$detected" = "${tiers# }" ] || { echo "$name: expected '${tiers# }', got '$detected'"; worst=1; }
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
    local packages
    packages=$("$python" -c 'import site; print(*site.getsitepackages(), sep=":")')
    PYTHONPATH=$root:$root/tests/support:$packages qemu-x86_64 -cpu Nehalem \
        "$(readlink -f "$("$python" -c 'import sys; print(sys.executable)')")" tools/nehalem.py
}

check_aarch64() {
    needs qemu-aarch64 "${cross}gcc"
    CC=${cross}gcc driver aarch64 -static -Wall -Wextra -Werror && drive aarch64 qemu-aarch64 && as_x86_v3 aarch64 baseline
}

# aarch64_python FOLDER : Debian's Python 3.11 for AArch64 in FOLDER/root, packages for it in FOLDER/site, and a command
# FOLDER/python that runs it under qemu. Interpreters that it starts run that command, too.
aarch64_python() {
    local package
    [ ! -x "$1/python" ] || return 0
    rm -rf "$1" && mkdir -p "$1/root"
    debootstrap --arch=arm64 --variant=minbase --download-only --include=python3.11,libpython3.11-dev,libgomp1 bookworm \
        "$1/debian" > "$1/debootstrap.log" 2>&1 || { tail -5 "$1/debootstrap.log"; return 1; }
    for package in "$1"/debian/var/cache/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$1/root" || return
    done
    "$python" -m pip install --quiet --target "$1/site" --only-binary=:all: --python-version 3.11 \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        numpy scipy-openblas32 pytest hypothesis safetensors || return
    printf 'import sys\nsys.executable = "%s"\n' "$1/python" > "$1/site/sitecustomize.py"
    printf '#!/bin/sh\nexec qemu-aarch64 -L "%s" "%s" "$@"\n' "$1/root" "$1/root/usr/bin/python3.11" > "$1/python"
    chmod +x "$1/python"
}

# The processor has no SVE unless QEMU_CPU names another one.
check_aarch64-python() {
    needs qemu-aarch64 "${cross}gcc" debootstrap dpkg-deb
    local folder=$work/aarch64-python engine=indygru_cpu/_engine flags
    [ -e $engine/_core.c ] || { echo "$engine/_core.c: build the extension first"; return 1; }
    aarch64_python "$folder" && copy "$folder/package" || return
    flags=$(CC=${cross}gcc PYTHONPATH=tools "$python" -c 'import build_driver; print(*build_driver.release_flags())') || return
    # shellcheck disable=SC2086 # several flags
    "${cross}gcc" $flags -fopenmp -fPIC -shared -DNDEBUG -I$engine/csrc -I$engine/include \
        -I"$folder/site/scipy_openblas32/include" -I"$folder/root/usr/include/python3.11" -I"$folder/root/usr/include" \
        $engine/_core.c $engine/csrc/*.c -o "$folder/package/$engine/_core.cpython-311-aarch64-linux-gnu.so" || return
    python=$folder/python TESTS=${TESTS:-$EMULATED} TIMEOUT=${TIMEOUT:-3600} suite "$folder/package" \
        "PYTHONPATH=$folder/package:$folder/site" "QEMU_CPU=${QEMU_CPU:-neoverse-n1}" --
}

check_avx512() {
    needs bochs busybox cpio grub-mkrescue xorriso mformat
    local kernel
    kernel=${KERNEL:-$(find /boot -name 'vmlinuz-*' 2> /dev/null | sort | tail -1)}
    [ -r "$kernel" ] || { echo "no Linux kernel: set KERNEL to the path of a vmlinuz"; return $NOT_RUN; }
    driver avx512 -static && tools/bochs.sh "$work/avx512/driver" "$kernel" "$work/avx512" > "$work/avx512/results" &&
        as_x86_v3 avx512 x86_v4
}

check_tiers() {
    local tier worst=0
    for tier in $("$python" -c 'from indygru_cpu._engine import _core; print(*_core.tiers())'); do
        echo " $tier"
        TESTS=${TESTS:-$(find tests -name 'test_*.py' -exec basename {} .py \; | sort)} logs=$logs/$tier suite "$root" "INDYGRU_CPU_TIER=$tier" -- || worst=1
    done
    return $worst
}

# numpy_features : features above NumPy's baseline on this processor, in the format of NPY_DISABLE_CPU_FEATURES.
numpy_features() {
    "$python" -c "
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(*(name for name in __cpu_dispatch__ if __cpu_features__[name]), sep=',')"
}

# fake_l2 BYTES : builds a library that reports this size of the L2 cache if it is loaded first.
fake_l2() {
    "${CC:-cc}" -shared -fPIC -x c -o "$work/l2_$1.so" - << END
#include <unistd.h>
long __sysconf(int name);
long sysconf(int name) { return name == _SC_LEVEL2_CACHE_SIZE ? $1 : __sysconf(name); }
END
}

# as_machine NAME VARIABLE=VALUE... : runs the tests with the settings of another machine.
as_machine() {
    echo " $1"
    TESTS=${TESTS:-$CORE $MACHINE} logs=$logs/$1 suite "$root" "${@:2}" --
}

check_machines() {
    needs taskset
    local value worst=0 features
    for value in $BLAS_CORES; do as_machine "blas-$value" "OPENBLAS_CORETYPE=$value" || worst=1; done
    for value in 1 3 64; do as_machine "threads-$value" "OMP_NUM_THREADS=$value" || worst=1; done
    for value in 0 65536 8388608; do
        fake_l2 $value && as_machine "l2-$value" "LD_PRELOAD=$work/l2_$value.so" || worst=1
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

# Two tests that measure memory are left out: the sanitizer uses memory of its own and keeps freed memory.
check_python-asan() {
    package python-asan -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer &&
        suite "$work/python-asan/package" ASAN_OPTIONS=detect_leaks=0 \
            "LD_PRELOAD=$("${CC:-cc}" -print-file-name=libasan.so) $("${CC:-cc}" -print-file-name=libstdc++.so)" -- --capture=sys -k "not memory_of_inference and not progress_stops_leak_nothing"
}

# Clang's OpenMP reports its synchronisation to the sanitizer through archer; GCC's does not. It starts one thread more
# than requested, so that the test that counts threads is left out.
check_python-tsan() {
    needs setarch
    local archer folder
    archer=$(find /usr/lib/llvm-*/lib -name libarcher.so 2> /dev/null | sort -V | tail -1)
    [ -n "$archer" ] || { echo "libarcher.so (LLVM's OpenMP): not installed"; return $NOT_RUN; }
    folder=$(dirname "$archer")
    TSAN_OPTIONS=exitcode=0 package python-tsan -g -fsanitize=thread || return
    runner=(setarch --addr-no-randomize)
    TESTS=${TESTS:-$THREADED} suite "$work/python-tsan/package" "LD_LIBRARY_PATH=$folder" \
        "LD_PRELOAD=$("${CC:-cc}" -print-file-name=libtsan.so) $folder/libomp.so.5" \
        TSAN_OPTIONS=ignore_noninstrumented_modules=1 -- --capture=sys -k "(thread or progress) and not num_threads_of_a_call_are_started"
}

# Clang's OpenMP registers handlers of forks and keeps its workers, unlike GCC's.
check_python-clang() {
    needs "$clang"
    CC=$clang package python-clang || return
    TESTS=${TESTS:-test_golden test_step test_fork test_threads} suite "$work/python-clang/package" --
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
    declare -F "check_$1" > /dev/null || { echo "tools/check.sh: unknown check $1: see tools/check.sh list" >&2; exit 2; }
    (runner=() interpreter=() logs=$work/logs/$1 && "check_$1")
    status=$?
    case $status in
        0) echo "== $1: passed" ;;
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

{ main "$@"; exit; } # one compound command: bash reads it as a whole, so that an edit during a run has no effect
