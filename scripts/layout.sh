#!/bin/sh
# Prints the linker's own script with two additions: the code that near.list names comes first in the text, with the constants
# it reads, and the library's small variables come first in the bss, before the tables (MS_FAR). Fails where the linker does
# not tell its script. Usage: layout.sh NEAR_LIST COMPILER [FLAG...]
set -eu
list=$1
shift
"$@" -shared -o /dev/null -Wl,--verbose 2>/dev/null | awk -v list="$list" '
    function near(   line, word, count, i, object) {
        while ((getline line < list) > 0) {
            if (line ~ /^#/) continue
            count = split(line, word, " ")
            for (i = 1; i <= count; i++) {
                if (word[i] ~ /:$/) object = "*malloc_la-" substr(word[i], 1, length(word[i]) - 1) ".o"
                else if (word[i] == "constants") print "    " object "(.rodata .rodata.cst* .rodata.str1.1)"
                else print "    " object "(.text*." word[i] " .text*." word[i] ".* .rodata." word[i] ")"
            }
        }
    }
    /^=+$/ { inside = !inside; next }
    !inside { next }
    { print }
    ($1 == ".text" || $1 == ".bss") && $2 == ":" { section = $1 }
    $1 == "{" && section == ".text" { print "    *crtbegin*.o(.text)"; near(); done++ }
    $1 == "{" && section == ".bss" { print "    *malloc_la-*.o(.bss)"; done++ }
    $1 == "{" { section = "" }
    END { exit done != 2 }'
