#!/usr/bin/env bash
# Builds llm-train and installs it:
#
#   scripts/install.sh --prefix DIR [--depends "openmpi/4.1 hdf5"]
#
#   DIR/bin/llm-train                            the program
#   DIR/share/llm-train/{jobs,data}              example jobs, the corpus that ships and its tokenizer
#   DIR/modulefiles/llm-train/VERSION.lua        for  module use DIR/modulefiles
#
# --depends names the modules that the modulefile loads with it: those of the MPI and HDF5 libraries built against.
set -euo pipefail

usage() {
    sed -n '2,10s/^# \{0,1\}//p' "$0"
}

prefix="" depends=""
while [ $# -gt 0 ]; do
    case "$1" in
        --prefix | --depends)
            [ $# -ge 2 ] || { echo "install: $1 needs a value" >&2; exit 2; }
            if [ "$1" = --prefix ]; then prefix=$2; else depends=$2; fi
            shift 2
            ;;
        --prefix=*) prefix=${1#*=} && shift ;;
        --depends=*) depends=${1#*=} && shift ;;
        -h | --help) usage && exit 0 ;;
        *) echo "install: expected --prefix DIR or --depends MODULES, found $1" >&2; exit 2 ;;
    esac
done
[ -n "$prefix" ] || { echo "install: --prefix DIR is missing" >&2; exit 2; }
if ! mkdir -p "$prefix" || [ ! -w "$prefix" ]; then echo "install: $prefix cannot be written" >&2; exit 2; fi
prefix=$(cd "$prefix" && pwd)

cd "$(dirname "$0")/.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

cargo build --release --locked --bin llm-train
program=${CARGO_TARGET_DIR:-target}/release/llm-train
version=$("$program" --version | awk '{ print $2 }')

install -D -m 755 "$program" "$prefix/bin/llm-train"
share=$prefix/share/llm-train
mkdir -p "$share"
cp -R jobs data "$share/"

modulefile=$prefix/modulefiles/llm-train/$version.lua
needed=""
for module in $depends; do needed="$needed${needed:+, }\"$module\""; done
mkdir -p "$(dirname "$modulefile")"
# A prefix may hold what sed would take for its own: & \ and |.
quoted=$(printf '%s' "$prefix" | sed 's/[&\\|]/\\&/g')
sed -e "s|@PREFIX@|$quoted|" -e "s|^--@DEPENDS@\$|${needed:+depends_on($needed)}|" modules/llm-train/modulefile.lua >"$modulefile"

echo "installed llm-train $version:"
echo "  $prefix/bin/llm-train"
echo "  $share/jobs $share/data"
echo "  $modulefile   (module use $prefix/modulefiles)"
