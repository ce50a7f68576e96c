#!/bin/sh
# heaptrack.sh COMMAND...: what `heaptrack COMMAND` does, without its words on stdout and with its data thrown away: the
# program under the recorder, which writes to a pipe, and the interpreter and zstd at its other end.
root=/usr/lib/heaptrack
work=$(mktemp -d) && mkfifo "$work/pipe" || exit 1
trap 'rm -rf "$work"' EXIT
"$root/libexec/heaptrack_interpret" <"$work/pipe" | zstd -qc >/dev/null &
LD_PRELOAD=$root/libheaptrack_preload.so DUMP_HEAPTRACK_OUTPUT=$work/pipe "$@"
status=$?
wait
exit $status
