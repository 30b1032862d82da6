#!/usr/bin/env bash
# Makes or updates .venv in the repository: the project with the given extras of
# setup.cfg, and where it is root the Debian packages that this, the demo and the tests
# call. Instant when nothing has changed. Afterwards: . .venv/bin/activate
#
# Usage: scripts/setup_env.sh [--espnet RELEASE] [EXTRAS [DEBIAN_PACKAGE ...]]
#   --espnet: 202611 or 202511, in .venv-RELEASE; without it the newest release that
#       some Python on this machine can have, in .venv
#   EXTRAS: default export,report
#   DEBIAN_PACKAGE: wanted besides espeak-ng and sctk, named like the command in it, or
#       COMMAND=PACKAGE
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "Error: setup_env.sh: $*" >&2
    exit 1
}

release=
venv=.venv
if [ "${1-}" = --espnet ]; then
    release=${2-}
    venv=.venv-${release}
    shift 2
fi
extras=${1:-export,report}
# Where Debian puts sclite
export PATH="${PATH}:/usr/lib/sctk/bin"

# debian_packages PACKAGE ...: installs Debian packages where this is root
debian_packages() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null || return 1
    echo "Installing the Debian packages $*"
    apt-get -qq update &&
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" > /dev/null
}

# find_python VERSION ...: prints the first Python of these versions, of PATH or pyenv
find_python() {
    local version python
    for version in "$@"; do
        for python in "python${version}" python3 \
            "${PYENV_ROOT:-${HOME}/.pyenv}/versions/${version}".*/bin/python; do
            if [ "$("${python}" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)" = "${version}" ]; then
                command -v "${python}"
                return
            fi
        done
    done
    return 1
}

# Pythons on which pip finds wheels of each release and of what it needs; where a release
# is asked for, as by tests, the oldest first, on which all of this has to run too
declare -A pythons=([202611]="3.12 3.13" [202511]="3.10 3.11")
best=(3.12 3.13 3.11 3.10)
[ -z "${release}" ] || [ -n "${pythons[${release}]-}" ] ||
    fail "--espnet must be one of 202611 and 202511, not '${release}'"

missing=()
for wanted in espeak-ng sclite=sctk "${@:2}"; do
    command -v "${wanted%%=*}" > /dev/null || missing+=("${wanted##*=}")
done
if [ "${#missing[@]}" -gt 0 ] && ! debian_packages "${missing[@]}"; then
    echo "Note: not installed: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
fi

# One that is there keeps its Python.
stamp=${venv}/.installed-${extras//,/-}
wanted=$(sha256sum setup.cfg pyproject.toml)
if [ -x "${venv}"/bin/python ] && [ "$(cat "${stamp}" 2> /dev/null)" = "${wanted}" ]; then
    exit 0
fi
if [ -x "${venv}"/bin/pip ]; then
    python=$(readlink -f "${venv}"/bin/python)
else
    read -ra versions <<< "${pythons[${release:-none}]-${best[*]}}"
    python=$(find_python "${versions[@]}") ||
        fail "ESPnet ${release:-202611 or 202511} needs one of the Pythons ${versions[*]}, and none is" \
            "on PATH or in pyenv; install one (Debian and Ubuntu: apt-get install python3)"
fi
# Some packages are compiled by pip: kenlm, pyworld
missing=()
"${python}" -c 'import ensurepip' 2> /dev/null || missing+=(python3-venv)
"${python}" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2> /dev/null || missing+=(python3-dev)
command -v g++ > /dev/null || missing+=(g++)
if [ "${#missing[@]}" -gt 0 ] && ! debian_packages "${missing[@]}"; then
    fail "missing: ${missing[*]}; as root: apt-get install ${missing[*]}"
fi

echo "Setting up ${venv} with ${python} and the extras ${extras} (minutes, the first time)"
[ -x "${venv}"/bin/pip ] || "${python}" -m venv --clear "${venv}"
"${venv}"/bin/python -m pip install --quiet --disable-pip-version-check -e ".[${extras}]" ${release:+"espnet==${release}"} ||
    fail "pip could not install the packages that setup.cfg names; its message stands above"
# Packages onnxruntime and onnxruntime-gpu have one module. The one for GPUs comes last,
# over the other one of the same release, so that their files are of one kind.
if [[ ",${extras}," == *,cuda,* ]]; then
    version=$("${venv}"/bin/python -c 'from importlib.metadata import version; print(version("onnxruntime-gpu"))')
    for package in onnxruntime onnxruntime-gpu; do
        "${venv}"/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
            --force-reinstall "${package}==${version}" ||
            fail "pip could not install ${package} ${version}; its message stands above"
    done
fi
echo "${wanted}" > "${stamp}"
