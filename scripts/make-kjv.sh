#!/bin/sh
# Makes data/kjv.txt.gz: the King James Bible, one verse a line, without numbers, a blank line after each chapter.
# Needs Debian's packages bible-kjv (the program) and bible-kjv-text (the text). The file it makes is always the same.
set -eu
cd "$(dirname "$0")/.."
bible -l9999 gen1:1-rev22:21 |
    awk '/^$/     { if (verses) print ""; verses = 0; heading = 1; next }   # after a blank line comes a heading, "Genesis 1"
         heading  { heading = 0; next }
                  { sub(/^ *[0-9]+ /, ""); print; verses = 1 }              # "  1 In the beginning …"
         END      { if (verses) print "" }' |
    gzip -9n > data/kjv.txt.gz
