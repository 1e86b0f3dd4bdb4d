#!/usr/bin/env bash
# What has been built is kept, as long as all that it was built from stays as it was. Sourced by kernels.sh and stub/build.sh.
#   key FILE… -- WORD…      a sum of the files' contents, of the words, and of the compiler
#   kept OUT KEY            whether OUT was built with this key; if not, it counts as not built until it is kept
#   keep OUT KEY            says so from now on
key() {
    local files=()
    while [ "$1" != -- ]; do files+=("$1") && shift; done
    { cat "${files[@]}" && printf '%s\n' "$@" && "${CXX:-g++}" -v; } 2>&1 | sha256sum | cut -d ' ' -f 1
}
kept() {
    if [ -e "$1" ] && [ "$(cat "$1.key" 2>/dev/null)" = "$2" ]; then return 0; fi
    rm -f "$1.key"
    return 1
}
keep() { echo "$2" >"$1.key"; }
