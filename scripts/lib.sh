# Shared by the scripts: where things are kept and how they speak. Sourced, not run.
# shellcheck shell=bash

ICESTREAM_CACHE="${ICESTREAM_CACHE:-$HOME/.cache/icestream}"
export ICESTREAM_CACHE
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$ICESTREAM_CACHE/target}"

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $*"
    exit 1
}

# part_dir NAME FILE...: the cache directory of a part, named by the content of the files that
# describe it, so that a changed pin never meets an old copy. tests/it/support/parts.rs does the same.
part_dir() {
    local name=$1
    shift
    printf '%s/%s-%s\n' "$ICESTREAM_CACHE" "$name" "$(cat "$@" | sha256sum | cut -c1-16)"
}

# The programs of scripts/setup tools and mutants, with their versions, and where each is kept.
declare -A TOOLS=([cargo-deny]=0.20.2 [cargo-machete]=0.9.2 [cargo-mutants]=27.1.0)
tool_dir() { printf '%s/tools/%s-%s\n' "$ICESTREAM_CACHE" "$1" "${TOOLS[$1]}"; }

# java_home: prints the home of a JDK that is recent enough: JAVA_HOME, the PATH, then where
# distributions keep theirs.
java_home() {
    local java candidate version
    java=$(command -v java || true)
    for candidate in "${JAVA_HOME:-}" "${java:+$(dirname "$(dirname "$(readlink -f "$java")")")}" /usr/lib/jvm/*; do
        [ -x "$candidate/bin/java" ] && [ -x "$candidate/bin/javac" ] || continue
        version=$("$candidate/bin/java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
        if [ "${version:-0}" -ge 17 ]; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}
