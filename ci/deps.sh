#!/usr/bin/env bash
# Checks what a user of the default features compiles: at most 15 crates, ourselves included, and no
# procedural macro.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

limit=15

# "name vX.Y.Z (path) (proc-macro) (*)": the path is ours, the star marks a repetition.
crates=$(cargo tree -e normal --no-default-features --prefix none |
    sed 's/ (\*)$//' | grep . | LC_ALL=C sort -u)
count=$(wc -l <<<"$crates")

echo "$crates"
echo "deps: $count crates, limit $limit"

status=0
if ((count > limit)); then
    echo "deps: too many crates" >&2
    status=1
fi
if macros=$(grep -F '(proc-macro)' <<<"$crates"); then
    echo "deps: procedural macros in the default tree:" >&2
    echo "$macros" >&2
    status=1
fi
exit "$status"
