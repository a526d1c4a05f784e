#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu machine lacks to build and test Lockstep: libclang (the SQL parser's bindings are
# generated with it), a C compiler, and PostgreSQL's server. Says exactly what to install where it may not install it itself.
set -euo pipefail

missing=()
# Whether a file matches one of the patterns.
any_file() { local pattern; for pattern in "$@"; do compgen -G "$pattern" >/dev/null && return 0; done; return 1; }
have_libclang() { any_file '/usr/lib/llvm-*/lib/libclang[.-]*so*' '/usr/lib/*/libclang-[0-9]*.so*' '/usr/lib64/libclang.so*' '/usr/local/opt/llvm/lib/libclang.dylib'; }
have_clang_headers() { any_file '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' '/usr/lib/clang/*/include/stddef.h' '/usr/local/opt/llvm/lib/clang/*/include/stddef.h'; }
have_postgres() {
    [ -n "${LOCKSTEP_PG_BIN:-}" ] && [ -x "$LOCKSTEP_PG_BIN/initdb" ] && return 0
    any_file '/usr/lib/postgresql/1[4-8]/bin/initdb' '/usr/pgsql-1[4-8]/bin/initdb' && return 0
    command -v initdb >/dev/null 2>&1 && command -v postgres >/dev/null 2>&1
}

if ! command -v cargo >/dev/null 2>&1; then
    echo "A Rust toolchain (1.95 or later) is needed; see the Rust project's site for rustup." >&2
    exit 1
fi
command -v cc >/dev/null 2>&1 || missing+=(build-essential)
{ have_libclang && have_clang_headers; } || missing+=(libclang-dev)
have_postgres || missing+=(postgresql)
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo -n"
fi
if command -v apt-get >/dev/null 2>&1 && { [ -z "$as_root" ] || $as_root true 2>/dev/null; }; then
    echo "Installing ${missing[*]} …"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
else
    echo "Please install: ${missing[*]}" >&2
    echo "  Debian, Ubuntu:  sudo apt-get install ${missing[*]}" >&2
    echo "  elsewhere: a C compiler, libclang with its headers, and PostgreSQL 14–18 (or set LOCKSTEP_PG_BIN)" >&2
    exit 1
fi
