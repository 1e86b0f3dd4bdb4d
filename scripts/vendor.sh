#!/usr/bin/env bash
# Makes the archive from which llm-train is built without a network: its sources and those of every crate it needs.
#
#   scripts/vendor.sh [llm-train-VERSION-vendored.tar.zst]      (.tar.gz and .tar.xz too, by the name)
#
# On the other machine either:
#   scripts/install.sh --prefix DIR --offline ARCHIVE           from a clone, or
#   tar xf ARCHIVE && cd llm-train-VERSION && scripts/install.sh --prefix DIR
#
# Beside it, an EasyBuild easyconfig and a Spack package that name the archive and its sum (of modules/). This is the only step
# that needs the network, and only for crates that cargo has not fetched before.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
called_from=$PWD
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
archive=${1:-llm-train-$version-vendored.tar.zst}
case "$archive" in
    *.tar.zst) command -v zstd >/dev/null || { echo "vendor: zstd is missing; name the archive .tar.gz instead" >&2; exit 2; } ;;
    *.tar.gz | *.tar.xz) ;;
    *) echo "vendor: expected a name that ends in .tar.zst, .tar.gz or .tar.xz, found $archive" >&2; exit 2 ;;
esac
case "$archive" in /*) ;; *) archive=$called_from/$archive ;; esac

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
tree=$stage/llm-train-$version
mkdir -p "$tree" "$(dirname "$archive")"

# What git knows, as it lies here; of an unpacked archive, everything but what was built and fetched.
revision=$(git rev-parse --short=12 HEAD 2>/dev/null || echo "${LLM_TRAIN_REVISION:-unknown}")
if [ "$(git rev-parse --show-prefix 2>/dev/null && git rev-parse --show-toplevel 2>/dev/null)" = $'\n'"$PWD" ]; then
    git diff --quiet HEAD || revision=$revision+
    git ls-files -z | while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
        tar c --null --files-from - | tar x -C "$tree"
else
    tar c --exclude ./target --exclude ./vendor --exclude ./.cargo --exclude ./runs . | tar x -C "$tree"
fi

(
    cd "$tree"
    mkdir .cargo
    # Not --quiet: cargo 1.95 then leaves out what it is asked for here, the lines that name vendor/ in place of the network.
    cargo vendor --locked vendor >.cargo/config.toml 2>"$stage/said" || { cat "$stage/said" >&2; exit 1; }
    grep -q '^replace-with' .cargo/config.toml || { echo "vendor: cargo vendor did not say how its folder is used" >&2; exit 1; }
    # What a build here must not ask for, and cannot know: the network, and the commit.
    printf '\n[net]\noffline = true\n\n[env]\nLLM_TRAIN_REVISION = "%s"\n' "$revision" >>.cargo/config.toml
)

# The same sources make the same bytes: names in order, one time, no owner.
tar c -C "$stage" --sort=name --mtime='2000-01-01 UTC' --owner=0 --group=0 --numeric-owner --format=gnu "llm-train-$version" |
    case "$archive" in
        *.zst) zstd -q -10 -T0 -f -o "$archive" ;;
        *.gz) gzip -9n >"$archive" ;;
        *.xz) xz -T0 >"$archive" ;;
    esac

sum=$(sha256sum "$archive" | cut -d ' ' -f 1)
beside=$(dirname "$archive")
fill() { sed -e "s|@ARCHIVE@|$(basename "$archive")|" -e "s|@SHA256@|$sum|" -e "s|@VERSION@|$version|g" "$1"; }
fill modules/easybuild/llm-train.eb >"$beside/llm-train-$version-gompi-2025b.eb"
mkdir -p "$beside/spack/packages/llm-train"
cp modules/spack/repo.yaml "$beside/spack/"
fill modules/spack/packages/llm-train/package.py >"$beside/spack/packages/llm-train/package.py"

echo "$archive: $(du -h "$archive" | cut -f 1), $(find "$tree/vendor" -mindepth 1 -maxdepth 1 | wc -l) crates, revision $revision"
echo "sha256 $sum"
echo "$beside/llm-train-$version-gompi-2025b.eb, $beside/spack"
