#!/bin/sh
# Makes of what the linker says of its own script (-Wl,--verbose) one with two additions: the code that near.list names comes first
# in the text, with the constants it reads, and the library's small variables come first in the bss, before the tables (MS_FAR).
# Fails if there is no such script, or no list. Usage: layout.sh NEAR_LIST < WHAT_THE_LINKER_SAID
set -eu
awk -v list="$1" '
    function near(   line, word, count, i, object, lines) {
        while ((getline line < list) > 0) {
            lines++
            if (line ~ /^#/) continue
            count = split(line, word, " ")
            for (i = 1; i <= count; i++) {
                if (word[i] ~ /:$/) object = "*malloc_la-" substr(word[i], 1, length(word[i]) - 1) ".o"
                else if (word[i] == "constants") print "    " object "(.rodata .rodata.cst* .rodata.str1.1)"
                else print "    " object "(.text*." word[i] " .text*." word[i] ".* .rodata." word[i] ")"
            }
        }
        return lines > 0
    }
    /^=+$/ { inside = !inside; next }
    !inside { next }
    { print }
    ($1 == ".text" || $1 == ".bss") && $2 == ":" { section = $1 }
    $1 == "{" && section == ".text" { print "    *crtbegin*.o(.text)"; done += near() }
    $1 == "{" && section == ".bss" { print "    *malloc_la-*.o(.bss)"; done++ }
    $1 == "{" { section = "" }
    END { exit done != 2 }'
