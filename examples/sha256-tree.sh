#!/usr/bin/env bash
# One task per file of a tree, from a pipe: the SHA-256 sum of each file, computed by the workers of a cluster, compared with
# what this machine computes by itself.
#
#   examples/sha256-tree.sh [TREE [FILES]]        (default: the first 2,000 files of /usr)
#
# Needs `steersman` on the PATH (or its path in STEERSMAN) and a cluster whose workers see the same files: start one with
# `steersman dev`. Kill its leader in the middle if you like. Ends with 0 if both lists are equal, byte for byte.
set -euo pipefail

steersman="${STEERSMAN:-steersman}"
tree="${1:-/usr}"
files="${2:-2000}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# Names with a line break cannot be one line of input. Sorted: the same files on every run.
find "$tree" -xdev -type f -readable -size -512k ! -name $'*\n*' 2>/dev/null | LC_ALL=C sort >"$work/all" || true
head -n "$files" "$work/all" >"$work/files"
echo "submitting $(wc -l <"$work/files") tasks" >&2

"$steersman" task submit - --lines -- sha256sum {} <"$work/files" >"$work/ranges"
echo "submitted: $(tr '\n' ' ' <"$work/ranges")" >&2
xargs "$steersman" task wait <"$work/ranges" >&2
xargs "$steersman" task logs <"$work/ranges" >"$work/by-cluster"
xargs -d '\n' sha256sum <"$work/files" >"$work/by-hand"

if ! diff "$work/by-hand" "$work/by-cluster" >"$work/difference"; then
  echo "the lists differ:" >&2
  head -n 20 "$work/difference" >&2
  exit 1
fi
echo "equal: $(wc -l <"$work/by-cluster") sums, $(sha256sum <"$work/by-cluster" | cut -c1-16)…"
