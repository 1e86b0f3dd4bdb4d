#!/bin/sh
# Makes data/kjv.txt.gz: the King James Bible, one verse a line, without numbers, a blank line after each chapter.
# Needs Debian's packages bible-kjv (the program) and bible-kjv-text (the text). The file it makes is always the same.
set -eu
cd "$(dirname "$0")/.."
bible -l9999 gen1:1-rev22:21 |
    awk '/^$/     { heading = !heading; if (heading && NR > 1) print ""; next }   # headings ("Genesis 1") have one above and below
         !heading { sub(/^ *[0-9]+ /, ""); print }                                # "  1 In the beginning …"
         END      { print "" }' |
    gzip -9n > data/kjv.txt.gz
