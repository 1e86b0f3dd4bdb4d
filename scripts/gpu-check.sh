#!/usr/bin/env bash
# All that only a GPU can show, in one go: does the program compute there what it computes elsewhere, and how fast? No network, no
# compiler; under 8 minutes on one H100.
#
#   scripts/bundle.sh --gpu-check DIR                 where the program was built; copy DIR, or DIR.tar.gz, to a machine with a GPU
#   DIR/bin/gpu-check [--only NAME,…] [--out FOLDER] [--time SECONDS] [--list]
#
# Parts run one after the other, each with a time limit, all together within SECONDS (480 unless given); one that fails does not stop
# the others. A part that tests nothing fails. Ends with a table, and leaves in FOLDER (gpu-check unless given)
#
#   report.txt   the table          report.json   the same, every figure, the benchmarks' own JSON          logs.txt   what was said
#
# Exit code 0: all that were asked for passed. 1: some did not. 2: the command is wrong.
# A part is left out where it says so, which it does on a stub alone.
# CUDA's libraries are those that the loader finds; where it finds none, those of /usr/local/cuda and of Python's packages.
#
# For trying it out on a stub: GPU_CHECK_SMALL=1 shrinks the models, GPU_CHECK_LIMITS=X multiplies the limits.
set -euo pipefail
refuse() { echo "gpu-check: $*" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
check=$here/check

# name, limit in seconds, what it shows
parts='libraries 30 the libraries are found, and a step runs
goldens-bf16 60 ten steps of every family in bf16: the CPU within 1e-2, PyTorch within 2e-2
bf16-true 60 ten steps of every family with weights in bf16 alone: the CPU within 1e-2, PyTorch within 2e-2
goldens-tf32 60 ten steps of every family in tf32: the CPU in fp32 within 5e-4, PyTorch within 1e-3 (OPT: ten times that)
goldens-fp32 60 ten steps of every family in fp32: the CPU within 2e-5, PyTorch within 1e-4
attention 40 own flash attention, heads of 64 and 128 columns; documents kept apart; backward in one pass
cudnn 60 attention by cuDNN, heads of 64 and 128 columns: our own kernels and the CPU within 1e-2; again, and gone on with: the same bits
inference 40 eval, generate and held-out losses while training: the CPU'"'"'s (fp32 2e-5, the same words; bf16 1e-2)
repeat 30 the same run twice, and with recomputation: the same bits
resume 30 stopped and gone on with: the same bits
memory 30 too little memory: one sentence, and the micro-batch that would fit
nccl 30 NCCL with one rank changes nothing, and carries bf16
ranks 40 two ranks on one GPU over MPI: the losses of one
curve 60 200 steps of gpt2-124M: in fp32 every loss, in bf16 the mean of each ten, within 0.5 % of the CPU'"'"'s in fp32
bench-gpt2 60 gpt2-124M, T = 1024, 65,536 tokens a step
bench-llama 75 Llama-3.2-1B, T = 1024, 65,536 tokens a step
bench-gpt2-xl 75 gpt2-1.5B, T = 1024, 65,536 tokens a step
gemm 40 matrix products of gpt2-1.5B alone
kernels 120 every kernel against its reference, even and ragged shapes, bf16 (1/256) and fp32 (1e-5)
memcheck 90 every kernel under compute-sanitizer: no access out of bounds
racecheck 90 every kernel under compute-sanitizer: no race in shared memory'

part_libraries() {
    local missing
    "$here/bin/llm-train" --version
    missing=$("$here/bin/llm-train" --version | awk '/^(CUDA driver|NVRTC|cuBLASLt|NCCL)/ && /not found/ { sub(/  .*/, ""); print }' | paste -sd ',')
    [ -z "$missing" ] || { echo "not found: $missing"; return 1; }
    train --model nano --layers 1 --synthetic-data --seq-len 32 --micro-batch 1 --steps 1 --precision bf16 --no-save-at-end
}
part_goldens-bf16() { tests cuda_device families::ten_steps_in_bf16; }
part_bf16-true() { tests cuda_device families::ten_steps_of_weights_in_bf16; }
part_goldens-tf32() { tests cuda_device families::ten_steps_in_tf32 families::tf32; }
part_goldens-fp32() { tests cuda_device families::ten_steps_in_fp32; }
part_attention() { tests cuda_device families::attention families::documents families::sums_in_any_order; }
part_cudnn() {
    [ ${#small[@]} = 0 ] || { echo "cuDNN's engines run on a GPU alone"; return 3; }
    tests cuda_device check::cudnn
}
part_inference() { tests cuda_device inference::held_out inference::eval inference::generate; }
part_repeat() { tests cuda_device families::the_same_run; }
part_resume() { tests cuda_device check::a_run_that_stopped; }
part_memory() { tests cuda_device check::too_little_memory; }
part_nccl() { tests cuda_device check::nccl; }
part_ranks() { tests cuda_device check::two_ranks ranks::two_ranks_on_one_gpu; }
part_curve() { tests cuda_device check::the_curve_is; }
part_bench-gpt2() { bench gpt2 32; }
part_bench-llama() { bench llama3.2-1b 16; }
part_bench-gpt2-xl() { bench gpt2-xl 16; }
part_gemm() {
    "$here/bin/llm-train" bench gemm --device cuda --precision bf16 --model gpt2-xl --seq-len 1024 --micro-batch 8 "${small[@]}" \
        --json "$scratch/gemm.json" | tee "$scratch/said"
    sed -n 's/^best: \([^ ]*\) GFLOP.*/figure: gemm best GFLOP\/s = \1/p' "$scratch/said"
}
part_kernels() { KERNELS_ON=gpu tests cuda_kernels --skip mutants --skip sanitizer --skip gpu:: "${tiny[@]}"; }
part_memcheck() { sanitized memcheck; }
part_racecheck() { sanitized racecheck; }

# Small models, and few tests of kernels, for the stub.
small=() tiny=()
if [ "${GPU_CHECK_SMALL:-0}" = 1 ]; then
    small=(--layers 1 --width 64 --heads 1 --kv-heads 1 --head-dim 64 --hidden 64 --vocab 128 --seq-len 16 --micro-batch 1 --global-batch 2)
    tiny=(norm::norm rows::)
fi

train() { "$here/bin/llm-train" --device cuda --out "$scratch/run" "$@"; }
# EXECUTABLE FILTER…: its tests pass, and there is at least one.
tests() {
    "$check/$1" --nocapture --test-threads="${GPU_CHECK_THREADS:-2}" "${@:2}" 2>&1 | tee "$scratch/said"
    if grep -q 'NOT TESTED' "$scratch/said"; then echo "something was left out"; return 1; fi
    grep -Eq '^test result: ok\. [1-9][0-9]* passed' "$scratch/said" || { echo "no test has passed"; return 1; }
}
# MODEL MICRO-BATCH: the training loop, timed. Where it does not fit, with the largest power of two that is said to.
bench() {
    local micro=$2 fits
    timed() {
        "$here/bin/llm-train" bench step --device cuda --precision bf16 --model "$1" --seq-len 1024 --global-batch 64 --micro-batch "$2" \
            --warm-up 3 --steps 10 "${small[@]}" --json "$scratch/$part.json"
    }
    if ! timed "$1" "$micro" 2>&1 | tee "$scratch/said"; then
        fits=$(sed -n 's/.*--micro-batch \([0-9]*\) would fit.*/\1/p' "$scratch/said" | head -n 1)
        [ -n "$fits" ] && [ "$fits" -lt "$micro" ] || return 1
        while [ "$micro" -gt "$fits" ]; do micro=$((micro / 2)); done
        [ "$micro" -ge 1 ] && timed "$1" "$micro" 2>&1 | tee "$scratch/said"
    fi
    sed -n "s/^\(tokens\/sec\|throughput per device (TFLOP\/s)\|tokens per joule\): \([^ ]*\).*/figure: $part \1 = \2/p" "$scratch/said"
}
# TOOL: with few shapes, since each access is looked at.
sanitized() {
    local tool
    tool=$(command -v compute-sanitizer || compgen -G "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" ||
        compgen -G '/usr/local/cuda*/bin/compute-sanitizer' || compgen -G '/opt/nvidia/*/compute-sanitizer' || true)
    tool=${tool%%$'\n'*}
    [ -n "$tool" ] || { echo "compute-sanitizer was not found: expected it in PATH or under /usr/local/cuda"; return 1; }
    KERNELS_ON=gpu HOSTSIM_MUTANT=0 "$tool" --tool "$1" --error-exitcode 9 --target-processes all --print-limit 20 \
        "$check/cuda_kernels" --nocapture --test-threads=1 --skip mutants --skip sanitizer --skip gpu:: "${tiny[@]}" 2>&1 | tee "$scratch/said"
    grep -Eq '^test result: ok\. [1-9][0-9]* passed' "$scratch/said" || { echo "no test has passed"; return 1; }
    grep -Eq 'ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards' "$scratch/said" || { echo "no summary without errors"; return 1; }
}

# Folders with libraries that the loader does not find by itself.
libraries() {
    local name folder found=""
    local known="${CUDA_HOME:-/usr/local/cuda}/lib64 /usr/local/nvidia/lib64 /usr/local/cuda/compat"
    for folder in $(python3 -c 'import sys; print(*[p for p in sys.path if p and " " not in p])' 2>/dev/null || true); do
        known+=" $(compgen -G "$folder/nvidia/*/lib" | paste -sd ' ' || true)"
    done
    known+=" $(compgen -G '/usr/local/cuda-*/lib64' | paste -sd ' ' || true)"
    for name in libcuda.so.1 'libnvrtc.so.1[23]' 'libcublasLt.so.1[23]' libnccl.so.2 libcudnn.so.9 libnvidia-ml.so.1; do
        for folder in ${LD_LIBRARY_PATH//:/ }; do compgen -G "$folder/$name" >/dev/null && continue 2; done
        if [ -n "$(ldconfig -p 2>/dev/null | awk -v name="^${name//./\\.}$" '$1 ~ name')" ]; then continue; fi
        for folder in $known; do
            compgen -G "$folder/$name" >/dev/null || continue
            case ":$found:" in *":$folder:"*) ;; *) found+="${found:+:}$folder" ;; esac
            break
        done
    done
    echo "$found"
}

export PATH=$here/bin:$PATH:/usr/sbin:/sbin DEVICE_ON=gpu LLM_TRAIN_ROOT=$check LLM_TRAIN_PROGRAM=$here/bin/llm-train
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# A part alone, in a process that can be ended.
if [ "${1:-}" = --part ]; then
    part=$2 scratch=$3
    "part_$part"
    exit
fi

only="" out=gpu-check time=480
while [ $# -gt 0 ]; do
    case "$1" in
        --only) only=${2:?gpu-check: --only needs a value} && shift 2 ;;
        --out) out=${2:?gpu-check: --out needs a value} && shift 2 ;;
        --time) time=${2:?gpu-check: --time needs a value} && shift 2 ;;
        --list) awk '{ name = $1; limit = $2; $1 = $2 = ""; printf "%-14s %4d s %s\n", name, limit, $0 }' <<<"$parts" && exit 0 ;;
        -h | --help) sed -n '2,18s/^# \{0,1\}//p' "$0" && exit 0 ;;
        *) refuse "expected --only, --out, --time or --list, found $1" ;;
    esac
done
for name in ${only//,/ }; do
    grep -q "^$name " <<<"$parts" || refuse "--only: expected names of parts (--list), found $name"
done
[ -x "$check/cuda_device" ] || refuse "$check: expected the tests of a bundle made by scripts/bundle.sh --gpu-check"
[[ $time =~ ^[0-9]+$ ]] || refuse "--time: expected seconds, found $time"
mkdir -p "$out"
out=$(cd "$out" && pwd)
all=$(mktemp -d)
trap 'rm -rf "$all"' EXIT
export XDG_CACHE_HOME=$all/llm-train-check/cache TMPDIR=$all # where the tests keep kernels too
more=$(libraries)
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}${LD_LIBRARY_PATH:+${more:+:}}$more
: >"$out/logs.txt"

quoted() { printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\037' | sed 's/[\\"]/\\&/g')"; }
now() { date +%s%N; }
passed=0 failed=0 absent=0 rows="" json="" benchmarks="" gpu=""
began=$(now)
while read -r part limit what; do
    [ -z "$only" ] || case ",$only," in *",$part,"*) ;; *) continue ;; esac
    scratch=$all/$part log=$all/$part.log
    mkdir -p "$scratch"
    limit=$(awk -v s="$limit" -v x="${GPU_CHECK_LIMITS:-1}" 'BEGIN { s *= x; printf "%d", (s < 1 ? 1 : s) }')
    start=$(now) left=$((time - ($(now) - began) / 1000000000))
    if [ "$left" -le 0 ]; then
        code=1
        echo "no time was left: the parts before it took the $time s that all may take" >"$log"
    else
        [ "$limit" -le "$left" ] || limit=$left
        code=0
        timeout -k 5 "$limit" bash "${BASH_SOURCE[0]}" --part "$part" "$scratch" >"$log" 2>&1 </dev/null || code=$?
    fi
    seconds=$(awk -v ns=$(($(now) - start)) 'BEGIN { printf "%.1f", ns / 1e9 }')
    why=""
    case $code in
        0) result=passed passed=$((passed + 1)) ;;
        3) result="left out" absent=$((absent + 1)) why=$(tail -n 1 "$log") ;;
        124 | 137) result=failed failed=$((failed + 1)) why="not done after $limit s" ;;
        *)
            result=failed failed=$((failed + 1))
            # The program's sentence, or an assertion's, or the last line.
            why=$(grep -m 1 '^llm-train: ' "$log" || grep -m 1 -A 1 'panicked at' "$log" | sed -n 2p || true)
            why=$(cut -c 1-240 <<<"${why:-$(grep -v '^ *$' "$log" | tail -n 1)}")
            ;;
    esac
    { echo "==== $part: $result in $seconds s"; cat "$log"; } >>"$out/logs.txt"
    [ -n "$gpu" ] || gpu=$(sed -n 's/^GPU \(.*\), .* of memory.*/\1/p' "$log" | head -n 1)
    row=$(printf '%-14s %-8s %6s s  %s' "$part" "$result" "$seconds" "${why:-$what}")$'\n'
    row+=$(sed -n 's/^figure: /                          /p' "$log")
    row=${row%$'\n'}
    echo "$row"
    rows+=$row$'\n'
    figures=$(sed -n 's/^figure: //p' "$log" | awk -F ' = ' '{ gsub(/["\\]/, "", $1); printf "%s\"%s\": %s", n++ ? ", " : "", $1, $2 + 0 }')
    json+="${json:+,}"$'\n'"  {\"name\": $(quoted "$part"), \"result\": \"$result\", \"seconds\": $seconds, \"limit\": $limit, \"shows\": $(quoted "$what"), "
    json+="\"why\": $(quoted "$why"), \"figures\": {$figures}}"
    [ ! -s "$scratch/$part.json" ] || benchmarks+="${benchmarks:+,}"$'\n'"  $(quoted "$part"): $(cat "$scratch/$part.json")"
done <<<"$parts"
total=$(awk -v ns=$(($(now) - began)) 'BEGIN { printf "%.1f", ns / 1e9 }')
version=$("$here/bin/llm-train" --version | head -n 1)
verdict="$passed passed, $failed failed in $total s"
[ "$absent" = 0 ] || verdict="$passed passed, $failed failed, $absent left out in $total s"
{ printf 'gpu-check: %s on %s, %s\n\n%s\n%s\n' "$version" "${gpu:-no GPU}" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$rows" "$verdict"; } >"$out/report.txt"
printf '{"version": %s, "gpu": %s, "host": %s, "time": "%s", "passed": %d, "failed": %d, "left_out": %d, "seconds": %s,\n"parts": [%s],\n"benchmarks": {%s}}\n' \
    "$(quoted "$version")" "$(quoted "$gpu")" "$(quoted "$(uname -n)")" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$passed" "$failed" "$absent" "$total" "$json" "$benchmarks" \
    >"$out/report.json"
echo "$verdict; $out: report.txt, report.json, logs.txt"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
