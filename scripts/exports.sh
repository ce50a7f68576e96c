#!/bin/sh
# Prints the names libmemscope_malloc exports, one a line: those of alloc/symbols.def, the functions that
# include/memscope/memscope.h declares, __register_atfork (alloc/thread.c) and dlopen (alloc/runtime.c).
# Usage: [CPP='cc -E'] exports.sh SRCDIR
set -eu
srcdir=$1
cpp=${CPP:-cc -E}

# shellcheck disable=SC2086  # CPP is a command with arguments
{
    printf '#define MS_SYMBOL(name, origin) name\n#include "alloc/symbols.def"\n' | $cpp -P -I"$srcdir" - 
    printf '%s\n' __register_atfork dlopen
    $cpp -P -I"$srcdir/include" "$srcdir/include/memscope/memscope.h" | grep -o 'memscope_[a-z0-9_]* *(' | tr -d ' ('
} | sed '/^[[:space:]]*$/d' | LC_ALL=C sort -u
