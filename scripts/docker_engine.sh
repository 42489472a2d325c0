#!/usr/bin/env bash
# Runs a command with a Docker engine that can build LUMOS's image, and ends with the command's exit
# code, or with 69 if there can be no engine; the reason is the last line of stdout.
#
#   scripts/docker_engine.sh [--install] COMMAND [ARGUMENT…]
#
# Where an engine answers (DOCKER_HOST, the current context) and the registries are reachable, it only
# runs the command. What is missing is made, in the folder LUMOS_DOCKER_WORK, which keeps its images:
#
#   an engine       is started as root, without touching another one, and ended with the command; with
#                   --install its packages are installed, on Debian
#   compose, buildx are unpacked from Debian 13, for this command alone
#   a base image    is made of Debian 12's packages, with this machine's certificate authorities in
#                   it: never publish images that were built on it
#   PyTorch's index becomes a folder with the wheel that this machine's pip finds, on 127.0.0.1
#
# LUMOS_BASE_IMAGE, LUMOS_TORCH_INDEX and LUMOS_BUILD_NETWORK, if set, are left as they are.
set -euo pipefail

UNAVAILABLE=69
root=$(cd "$(dirname "$0")/.." && pwd)
work=${LUMOS_DOCKER_WORK:-/var/tmp/lumos-docker}
install=no
[ "${1:-}" = --install ] && install=yes && shift
[ $# -gt 0 ] || { sed -n '2,6s/^# \?//p' "$0"; exit 2; }

say() { printf 'docker engine: %s\n' "$*"; }
unavailable() { printf 'no Docker engine: %s\n' "$*"; exit $UNAVAILABLE; }
answers() { # URL: whether it answers with one of the status codes that follow
    local code
    command -v curl >/dev/null || return 0 # nothing to ask with
    code=$(curl -s -o /dev/null -m 8 -w '%{http_code}' "$1" || true)
    [[ " ${*:2} " == *" $code "* ]]
}
repository() { # LABEL: where this machine gets Debian's packages of that label
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Label: $1" | head -n 1
}
started=()
cleanup() {
    local pid
    [ ${#started[@]} -gt 0 ] || return 0 # macOS's bash takes an empty array for an unset one
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
}
trap cleanup EXIT

# ---------------------------------------------------------------- packages
packages() {
    [ "$install" = yes ] || unavailable "$1 is missing, and --install was not given"
    [ "$(id -u)" = 0 ] || unavailable "$1 is missing, and only root can install it"
    command -v apt-get >/dev/null || unavailable "$1 is missing, and this is not a Debian system"
    say "installing docker.io, mmdebstrap and curl"
    mkdir -p "$work"
    {
        apt-get -qq update &&
            DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
                docker.io mmdebstrap curl ca-certificates
    } >"$work/apt.log" 2>&1 ||
        unavailable "Debian's packages cannot be installed: $(tail -n 1 "$work/apt.log")"
}
running() { docker info >/dev/null 2>&1; }
command -v docker >/dev/null || packages docker

# ---------------------------------------------------------------- the engine
if [ -n "${DOCKER_HOST:-}" ]; then
    running || unavailable "DOCKER_HOST=$DOCKER_HOST does not answer"
elif ! running; then
    [ "$(id -u)" = 0 ] || unavailable "none answers, and only root can start one"
    command -v dockerd >/dev/null || packages dockerd
    mkdir -p "$work/engine"
    export DOCKER_HOST=unix://$work/engine/docker.sock
    running && unavailable "another call of this script uses $work; see LUMOS_DOCKER_WORK"
    say "starting one in $work"
    rm -f "$work/engine/pid"
    setsid dockerd --data-root "$work/engine/data" --exec-root "$work/engine/exec" \
        --pidfile "$work/engine/pid" -H "$DOCKER_HOST" >"$work/engine/log" 2>&1 &
    started+=($!)
    for _ in $(seq 60); do
        running && break
        kill -0 "${started[0]}" 2>/dev/null ||
            unavailable "dockerd ended: $(grep -av level=info "$work/engine/log" | tail -n 1)"
        sleep 0.5
    done
    running || unavailable "dockerd does not answer; see $work/engine/log"
fi

plugin() { # NAME: the plugin docker-NAME, from Debian 13 if it is not installed
    docker "$1" version >/dev/null 2>&1 && return
    local mirror apt=$work/trixie
    mirror=$(command -v apt-get >/dev/null && repository Debian || true)
    [ -n "$mirror" ] || unavailable "the plugin docker $1 is not installed"
    export DOCKER_CONFIG=$work/config
    mkdir -p "$DOCKER_CONFIG/cli-plugins" "$apt/lists/partial" "$apt/cache/archives/partial"
    docker "$1" version >/dev/null 2>&1 && return
    say "unpacking docker $1 from Debian 13"
    echo "deb $mirror trixie main" >"$apt/sources.list"
    local options=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
    {
        { ls "$apt"/lists/*Packages* >/dev/null 2>&1 || apt-get "${options[@]}" -qq update; } &&
            cd "$apt" && apt-get "${options[@]}" -qq download "docker-$1"
    } >"$work/apt.log" 2>&1 || unavailable "docker $1 is not installed: $(tail -n 1 "$work/apt.log")"
    dpkg-deb --fsys-tarfile "$apt"/docker-"$1"_*.deb |
        tar -xO "./usr/libexec/docker/cli-plugins/docker-$1" >"$DOCKER_CONFIG/cli-plugins/docker-$1"
    chmod +x "$DOCKER_CONFIG/cli-plugins/docker-$1"
    cd "$root"
}
plugin buildx
plugin compose

# ---------------------------------------------------------------- the base image
if [ -z "${LUMOS_BASE_IMAGE:-}" ] && ! answers https://registry-1.docker.io/v2/ 200 401; then
    export LUMOS_BASE_IMAGE=lumos-base:of-this-machine
    if ! docker image inspect "$LUMOS_BASE_IMAGE" >/dev/null 2>&1; then
        [ "$(id -u)" = 0 ] || unavailable "no registry answers, and only root can make a base image"
        command -v mmdebstrap >/dev/null || packages mmdebstrap
        mirror=$(repository Debian) && security=$(repository Debian-Security)
        [ -n "$mirror" ] || unavailable "no registry answers, and there is no mirror of Debian"
        say "no registry answers: making a base image of Debian 12's packages"
        printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/pip.conf"
        index=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
        [ -z "$index" ] || printf 'index-url = %s\n' "$index" >>"$work/pip.conf"
        authorities=$(ls /usr/local/share/ca-certificates/*.crt 2>/dev/null || true)
        nice mmdebstrap --quiet --mode=root --variant=minbase \
            --include=python3,python3-venv,python-is-python3,ca-certificates \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' \
            --customize-hook="copy-in $work/pip.conf /etc" \
            ${authorities:+--customize-hook="copy-in ${authorities//$'\n'/ } /usr/local/share/ca-certificates"} \
            --customize-hook='chroot "$1" update-ca-certificates' \
            bookworm "$work/base.tar" "deb $mirror bookworm main" "deb $mirror bookworm-updates main" \
            ${security:+"deb $security bookworm-security main"} >"$work/base.log" 2>&1 ||
            unavailable "no base image: $(tail -n 1 "$work/base.log")"
        docker import --change 'CMD ["python"]' "$work/base.tar" "$LUMOS_BASE_IMAGE" >/dev/null
        rm "$work/base.tar"
    fi
fi

# An engine that starts may still be unable to run containers, inside another container for example.
if [ ${#started[@]} -gt 0 ]; then
    tried=$(docker run --rm --memory 64m --pids-limit 32 --read-only --cap-drop ALL \
        "${LUMOS_BASE_IMAGE:-python:3.11-slim-bookworm}" python -c 'print("runs")' 2>&1) || true
    [[ $tried == *runs ]] || unavailable "it runs no container: $(tail -n 1 <<<"$tried")"
fi

# ---------------------------------------------------------------- PyTorch
if [ -z "${LUMOS_TORCH_INDEX:-}" ] && ! answers https://download.pytorch.org/whl/cpu/torch/ 200; then
    torch=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$root/requirements.lock")
    wheels=$work/index/torch
    mkdir -p "$wheels"
    if ! ls "$wheels"/torch-"$torch"*.whl >/dev/null 2>&1; then
        say "PyTorch's index does not answer: taking the wheel that pip finds"
        python=$root/.venv/bin/python
        [ -x "$python" ] || python=python3
        python=("$python" -m pip)
        wanted=(--no-deps --only-binary=:all: --python-version 3.11
            --platform "manylinux_2_28_$(uname -m)" "torch==$torch")
        found=$("${python[@]}" install --quiet --dry-run --ignore-installed --report - \
            --target "$work/none" "${wanted[@]}" 2>"$work/pip.log") ||
            unavailable "pip finds no PyTorch for the image: $(tail -n 1 "$work/pip.log")"
        grep -q '"url".*cpu' <<<"$found" || [ "$(uname -m)" != x86_64 ] ||
            unavailable "pip would take a build of PyTorch with CUDA: 3 GB that LUMOS does not need"
        "${python[@]}" download --quiet --dest "$wheels" "${wanted[@]}" ||
            unavailable "the wheel of PyTorch cannot be loaded"
    fi
    # always the same port: with another address the builder would install PyTorch again
    export LUMOS_TORCH_INDEX=http://127.0.0.1:${LUMOS_INDEX_PORT:-28477}
    export LUMOS_BUILD_NETWORK=${LUMOS_BUILD_NETWORK:-host}
    python3 -m http.server --bind 127.0.0.1 --directory "$work/index" "${LUMOS_TORCH_INDEX##*:}" \
        >"$work/index.log" 2>&1 &
    started+=($!)
    for _ in $(seq 50); do
        answers "$LUMOS_TORCH_INDEX/torch/" 200 && break
        kill -0 $! 2>/dev/null || unavailable "$(tail -n 1 "$work/index.log"); set LUMOS_INDEX_PORT"
        sleep 0.2
    done
fi

say "$(docker version --format '{{.Server.Version}}'), compose $(docker compose version --short)," \
    "base image ${LUMOS_BASE_IMAGE:-from the registry}"
code=0
"$@" || code=$?
exit $code # and the engine that was started here is ended
