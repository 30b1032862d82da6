#!/usr/bin/env bash
# Makes or updates .venv in the repository: the project with the given extras of
# setup.cfg, and where it is root the Debian packages that this, the demo and the tests
# call. Instant when nothing has changed. Afterwards: . .venv/bin/activate
#
# Usage: scripts/setup_env.sh [EXTRAS [DEBIAN_PACKAGE ...]]
#   EXTRAS: default export,report
#   DEBIAN_PACKAGE: wanted besides espeak-ng and sctk, named like the command in it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=${1:-export,report}
# Where Debian puts sclite
export PATH="${PATH}:/usr/lib/sctk/bin"

fail() {
    echo "Error: setup_env.sh: $*" >&2
    exit 1
}

# debian_packages PACKAGE ...: installs Debian packages where this is root
debian_packages() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null || return 1
    echo "Installing the Debian packages $*"
    apt-get -qq update &&
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" > /dev/null
}

# find_python: prints the Python to use, one that ESPnet 202511 installs on
find_python() {
    local name
    for name in python3 python3.12 python3.11 python3.10 python3.13; do
        if "${name}" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2> /dev/null; then
            command -v "${name}"
            return
        fi
    done
    fail "no Python 3.10 to 3.13 on PATH; install one (Debian and Ubuntu: apt-get install python3)"
}

missing=()
for command in espeak-ng "${@:2}"; do
    command -v "${command}" > /dev/null || missing+=("${command}")
done
command -v sclite > /dev/null || missing+=(sctk)
if [ "${#missing[@]}" -gt 0 ] && ! debian_packages "${missing[@]}"; then
    echo "Note: not installed: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
fi

stamp=.venv/.installed-${extras//,/-}
wanted=$(sha256sum setup.cfg pyproject.toml)
if [ -x .venv/bin/python ] && [ "$(cat "${stamp}" 2> /dev/null)" = "${wanted}" ]; then
    exit 0
fi

python=$(find_python)
# ESPnet needs packages that pip compiles: pyworld, and sentencepiece on Python 3.13
missing=()
"${python}" -c 'import ensurepip' 2> /dev/null || missing+=(python3-venv)
"${python}" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2> /dev/null || missing+=(python3-dev)
command -v g++ > /dev/null || missing+=(g++)
if "${python}" -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
    command -v make > /dev/null || missing+=(make)
    command -v cmake > /dev/null || missing+=(cmake)
    command -v pkg-config > /dev/null || missing+=(pkg-config)
fi
if [ "${#missing[@]}" -gt 0 ] && ! debian_packages "${missing[@]}"; then
    fail "missing: ${missing[*]}; as root: apt-get install ${missing[*]}"
fi

echo "Setting up .venv with ${python} and the extras ${extras} (minutes, the first time)"
[ -x .venv/bin/pip ] || "${python}" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[${extras}]" ||
    fail "pip could not install the packages that setup.cfg names; its message stands above"
echo "${wanted}" > "${stamp}"
