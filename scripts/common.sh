# shellcheck shell=bash disable=SC2034
# What quickstart.sh and check.sh share: the list of packages, their installation, the build. Sourced, not run.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=$(nproc)

# Debian packages. node and npm may come from elsewhere, so they are looked for as commands (need_npm).
packages_build=(autoconf automake libtool pkg-config gcc g++ make binutils libc6-dev
    libjemalloc-dev libmimalloc-dev libmsgpack-dev libdw-dev libelf-dev libiberty-dev zlib1g-dev)
packages_quickstart=(sqlite3)
packages_check=(check libunwind-dev clang valgrind shellcheck chromium python3 python3-msgpack xz-utils
    perl git redis-server lua5.4 jq gawk procps)

say() { printf '\n== %s\n' "$*"; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "packages are missing and there is neither root nor sudo: apt-get install ${missing[*]}"
    fi
}

# need_packages NAME...: installs those that are not there.
need_packages() {
    local name
    missing=()
    for name in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "packages are missing and there is no apt-get: ${missing[*]}"
    say "installing: ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null || die "apt-get update failed"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null ||
        die "apt-get could not install: ${missing[*]}"
}

# The report page of a checkout is built with npm; a release brings it along.
need_npm() {
    if command -v npm >/dev/null && command -v node >/dev/null; then return 0; fi
    need_packages nodejs npm
}

# bootstrap: makes ./configure where it is missing or older than what it is made from.
bootstrap() {
    if [ -x "$top/configure" ] && [ ! "$top/configure.ac" -nt "$top/configure" ] && [ -f "$top/Makefile.in" ]; then
        return 0
    fi
    say "autoreconf -fi"
    (cd "$top" && autoreconf -fi) || die "autoreconf failed"
}

# configure_in DIR OPTION...: configures in DIR, and only once for the same options.
configure_in() {
    local dir=$1
    shift
    mkdir -p "$dir"
    if [ -x "$dir/config.status" ] && [ "$(cat "$dir/options" 2>/dev/null)" = "$*" ] &&
        [ ! "$top/configure" -nt "$dir/config.status" ]; then
        return 0
    fi
    (cd "$dir" && "$top/configure" -q "$@") || return 1
    echo "$*" >"$dir/options"
}
