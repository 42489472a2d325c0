#!/usr/bin/env bash
# `make docker-demo`: image, containers, a short run on the bundled data, its results. Needs nothing
# but Docker with its plugins compose and buildx. Ends with 0 if the run has completed.
#
# The demo is a compose project of its own, lumos-demo; what an earlier call left of it is removed.
set -euo pipefail
cd "$(dirname "$0")"

export COMPOSE_PROJECT_NAME=lumos-demo LUMOS_RUN=run
export LUMOS_SERVER_OPTIONS=${LUMOS_SERVER_OPTIONS:---rounds 4 -c view-share=0.1}
out=../runs/$(date +%Y%m%d-%H%M%S)-docker-demo
compose() { docker compose --ansi never "$@"; }
say() { printf '# [%3d s] %s\n' "$SECONDS" "$*"; }
fail() { printf 'docker demo: %s\n' "$*" >&2; exit 1; }

command -v docker >/dev/null || fail "docker is not installed: https://docs.docker.com/engine/install"
docker info >/dev/null 2>&1 || fail "the Docker engine does not answer; is it started, may you use it?"
for plugin in compose buildx; do
    docker "$plugin" version >/dev/null 2>&1 || fail "Docker's plugin $plugin is not installed"
done
trap 'say "interrupted; to end and remove all of it: docker compose -p lumos-demo down --volumes"; exit 130' INT

say "1 of 4: the image lumos:0.2.0 (2 GB; a few minutes the first time, seconds afterwards)"
# Compose writes the project's name into an image: with another one, `up` of lumos would see a new image.
docker compose -p lumos --progress "${LUMOS_BUILD_PROGRESS:-auto}" build
compose down --volumes >/dev/null 2>&1

say "2 of 4: containers: init, which makes keys and data; server; three nodes"
compose --progress quiet up -d

say "3 of 4: the run: lumos deploy server … $LUMOS_SERVER_OPTIONS"
server=$(compose ps --all --quiet server) since=0
state() { docker inspect --format "{{.State.$1}}" "$server"; }
while true; do # a server that Docker starts again goes on in the same log
    docker logs --follow --since "$since" "$server" 2>&1
    while [ "$(state Status)" = restarting ]; do sleep 0.5; done
    [ "$(state Status)" = exited ] && break
    since=$(state StartedAt)
done
code=$(state ExitCode)
if [ "$code" != 0 ]; then
    fail "the server ended with $code; docker compose -p lumos-demo logs shows more"
fi

say "4 of 4: results, and the end"
mkdir -p ../runs
compose cp server:/state/run "$out" >/dev/null 2>&1
compose --progress quiet stop
say "completed; model, history, summary.json, report.md: ${out#../}"
echo "to remove its containers and volumes:  docker compose -p lumos-demo down --volumes"
echo "to remove the image:                   docker image rm lumos:0.2.0"
