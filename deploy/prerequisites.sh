#!/bin/sh
# Says in one line what is missing before `make` fetches anything. Arguments: `python COMMAND`, `servers`.
set -eu

stop() {
    echo "earlybell: $*" >&2
    exit 1
}

check_python() {
    command -v "$1" >/dev/null 2>&1 ||
        stop "$1 not found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3 ..."
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        stop "$1 is older than Python 3.11: install a newer one, or name it: make PYTHON=/path/to/python3 ..."
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        stop "$1 cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3-venv)"
}

# A JAVA_HOME goes before the PATH, as in deploy/local/jars.py.
java_command() {
    if [ -n "${JAVA_HOME:-}" ] && [ -x "$JAVA_HOME/bin/java" ]; then echo "$JAVA_HOME/bin/java"; else echo java; fi
}

check_java() {
    java=$(java_command)
    install="install it (Debian, Ubuntu: apt install openjdk-17-jre-headless; macOS: brew install openjdk)"
    command -v "$java" >/dev/null 2>&1 || stop "Java 17 or newer not found, and Kafka runs on it: $install"
    version=$("$java" -version 2>&1 | sed -n 's/.*version "\(1\.\)\{0,1\}\([0-9]*\).*/\2/p' | head -n 1)
    [ -n "$version" ] || stop "$java does not run: $install"
    [ "$version" -ge 17 ] || stop "$java is Java $version, and Kafka 4 needs 17 or newer: $install"
}

check_maven() {
    command -v mvn >/dev/null 2>&1 && return
    for cached in "${XDG_CACHE_HOME:-$HOME/.cache}"/earlybell/kafka-*/ "$HOME"/Library/Caches/earlybell/kafka-*/; do
        [ ! -d "$cached" ] || return 0
    done
    stop "Maven (mvn) not found, and it fetches Kafka: install it (Debian, Ubuntu: apt install maven; macOS: brew install maven)"
}

case "$1" in
python) check_python "$2" ;;
servers)
    # A broker that runs already needs neither; an unpacked Kafka needs only Java.
    [ -n "${EARLYBELL_KAFKA_BOOTSTRAP:-}" ] || check_java
    [ -n "${EARLYBELL_KAFKA_BOOTSTRAP:-}${KAFKA_HOME:-}" ] || check_maven
    ;;
*) stop "usage: $0 python COMMAND | servers" ;;
esac
