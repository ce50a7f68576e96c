#!/usr/bin/env bash
# The library exports exactly the names of alloc/symbols.def and of the public header, is bound at start-up, and needs
# nothing but libc. Run by `make check`.
set -euo pipefail
cd "${top_builddir:?}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$NM" -D --defined-only "$MEMSCOPE_LIB" | awk '{print $3}' | sed 's/@.*//' | LC_ALL=C sort >"$work/actual"
CPP="$CC -E" sh "${top_srcdir:?}/scripts/exports.sh" "$top_srcdir" >"$work/wanted"
! grep -q '^SANITIZE_CFLAGS = .*fsanitize' Makefile || sed -i '/^__register_atfork$/d' "$work/wanted"
diff "$work/wanted" "$work/actual"

"$READELF" -d "$MEMSCOPE_LIB" >"$work/dynamic"
! grep -q '^SANITIZE_CFLAGS = .*fsanitize' Makefile || exit 0 # a sanitizer's runtime comes along
needed=$(sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' "$work/dynamic" | grep -vxE 'libc\.so\.6|ld-linux-.*' || true)
[ -z "$needed" ] || { echo "the library brings into every process: $needed"; exit 1; }
grep -q BIND_NOW "$work/dynamic"
