#!/bin/sh
# apt-need.sh WHY PACKAGE...: installs those Debian packages that are missing, with sudo when not root.
# Where it cannot, it says in one line what to install, and fails.
set -eu
why=$1
shift
missing=""
for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
echo "installing$missing ($why)"
if [ "$(id -u)" -eq 0 ]; then
    run=""
elif command -v sudo >/dev/null 2>&1; then
    run="sudo"
else
    echo "missing Debian packages ($why):$missing; as root: apt-get install$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
{ $run apt-get update -q >/dev/null && $run apt-get install -q -y --no-install-recommends $missing >/dev/null; } || {
    echo "could not install ($why):$missing; as root: apt-get install$missing" >&2
    exit 1
}
