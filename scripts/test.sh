#!/usr/bin/env bash
# Every test, on a machine that may have only Rust and gcc. Ends with one line: N passed, N failed.
# Tests that need several ranks start mpirun themselves.
set -uo pipefail
cd "$(dirname "$0")/.."
TESTS=1 source scripts/setup.sh
# Where everything can be installed, a test that is left out is a failure. Elsewhere it says so.
if [ "$(id -u)" -eq 0 ] && have apt-get; then
    export LLM_TRAIN_NO_SKIPS=1 CI=1
    REFRAME=$(scripts/reframe.sh) && export REFRAME
fi

log=$(mktemp)
trap 'rm -f "$log" "${site:-}"; [ -z "${site_check:-}" ] || kill "$site_check" 2>/dev/null' EXIT
failed=0
step() { # name, command…: what is not a cargo test counts as one test
    echo "== $1"
    if "${@:2}"; then echo "test result: ok. 1 passed; 0 failed" >>"$log"; else echo "test result: FAILED. 0 passed; 1 failed" >>"$log"; fi
}

step "format" cargo fmt --all -- --check
# All but those of Slurm, which mostly wait for a job's time to pass: they run beside the site's check, which mostly compiles.
names=$(cd tests && ls -d ./*.rs ./*/main.rs | sed 's|^\./||; s|/main\.rs$||; s|\.rs$||' | grep -vx slurm)
echo "== tests"
cargo test --release --no-run || failed=1
# shellcheck disable=SC2046,SC2086 # several names
cargo test --release --no-fail-fast --lib --bins $(printf -- '--test %s ' $names) 2>&1 | tee -a "$log" || failed=1
cargo test --release --doc 2>&1 | tee -a "$log" || failed=1
cargo test --release --test ops -- --exact products::which_kernels_are_exercised --nocapture 2>/dev/null | grep "^product kernel"
step "kernels for sm_80, sm_90a, sm_100a" scripts/cuda-check.sh --table
site=$(mktemp)
scripts/site-check.sh >"$site" 2>&1 &
site_check=$!
echo "== jobs under Slurm"
cargo test --release --test slurm -- --test-threads=4 2>&1 | tee -a "$log" || failed=1
of_site() {
    local status=0
    wait "$site_check" || status=$?
    site_check=""
    cat "$site"
    return "$status"
}
step "another site: no network, MPICH, recipes" of_site
step "shell scripts" bash -n scripts/*.sh jobs/*/job.sbatch

passed=$(awk '/^test result:/ {for (i = 1; i < NF; i++) if ($(i+1) ~ /^passed/) n += $i} END {print n + 0}' "$log")
broken=$(awk '/^test result:/ {for (i = 1; i < NF; i++) if ($(i+1) ~ /^failed/) n += $i} END {print n + 0}' "$log")
[ "$failed" -eq 0 ] || [ "$broken" -gt 0 ] || broken=1 # a crash or a compile error has no result line
echo "$passed passed, $broken failed"
[ "$broken" -eq 0 ]
