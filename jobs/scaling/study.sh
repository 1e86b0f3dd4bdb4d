#!/bin/bash
# A scaling study: `bench step` on 1, 2, 4, … devices, then one table of all.
#
#   study.sh OUT RANKS… [-- options of llm-train bench step]
#
#   study.sh out 1 2                                                  on one node, under mpirun: ranks up to its cores
#   study.sh out 1 2 -- --model nano --seq-len 64 --steps 20          other than run.toml says
#   sbatch --nodes=8 --ntasks-per-node=4 study.sbatch                 under Slurm: one allocation, steps of it
#
# SCALING=weak (each device has --micro-batch sequences a step) or strong (all together --global-batch).
# CONFIG: the settings [run.toml beside this file]. PRICE: of a device and hour. LAUNCH: how to start N ranks.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="${1:?expected: study.sh OUT RANKS… [-- options]}"
shift
ranks=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
    ranks+=("$1")
    shift
done
[ $# -gt 0 ] && shift
[ ${#ranks[@]} -gt 0 ] || { echo "study.sh: expected numbers of ranks, found none" >&2; exit 2; }
for n in "${ranks[@]}"; do
    [[ "$n" =~ ^[1-9][0-9]*$ ]] && continue
    echo "study.sh: expected numbers of ranks, then -- and options, found $n (options of sbatch stand before the script's name)" >&2
    exit 2
done

program="${LLM_TRAIN:-llm-train}"
scaling="${SCALING:-weak}"
mkdir -p "$out"
# Of an earlier study: where this one fails nothing is to look like its result.
rm -f "$out"/scaling.{csv,svg,txt}
for n in "${ranks[@]}"; do rm -f "$out/devices-$n".* "$out/failed-$n.txt"; done

start() { # N command…
    local n="$1"
    shift
    if [ -n "${SLURM_JOB_ID:-}" ] && [ -z "${LAUNCH:-}" ]; then
        # As few nodes as hold them, so that the first steps stay within one.
        local each="${SLURM_NTASKS_PER_NODE:-$n}"
        [ "$each" -gt "$n" ] && each="$n"
        srun --ntasks="$n" --nodes=$(((n + each - 1) / each)) --ntasks-per-node="$each" --exact --kill-on-bad-exit=1 \
            --cpu-bind=cores "$@"
    else
        # --bind-to none: a rank has several threads, which mpirun would put on one core.
        # shellcheck disable=SC2086 # a command of several words
        ${LAUNCH:-mpirun --bind-to none -n} "$n" "$@"
    fi
}

files=()
for n in "${ranks[@]}"; do
    file="$out/devices-$n.json" log="$out/failed-$n.txt" status=0
    start "$n" "$program" bench step --config "${CONFIG:-$here/run.toml}" --scaling "$scaling" --json "$file" "$@" 2>&1 |
        tee "$log" || status=$?
    if [ "$status" -ne 0 ]; then
        rm -f "$file"
        echo "study.sh: the rung devices-$n failed with exit code $status; all that it said is in $log:" >&2
        # The program's own sentence, where there is one. Else what mpirun complains of: it says that between two rules, the matter
        # first and advice for long after. Else the last words.
        grep '^llm-train: ' "$log" >&2 ||
            awk '/^----------/ { inside = 1; next } inside && NF { print; if (++n == 5) exit } END { exit !n }' "$log" >&2 ||
            tail -n 5 "$log" >&2
        exit "$status"
    fi
    mv "$log" "$out/devices-$n.txt"
    files+=("$file")
done
price=()
[ -n "${PRICE:-}" ] && price=(--price-per-device-hour "$PRICE")
"$program" report --scaling "${files[@]}" --csv "$out/scaling.csv" --output "$out/scaling.svg" "${price[@]}" | tee "$out/scaling.txt"
