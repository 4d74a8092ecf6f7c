#!/bin/sh
# python-ready.sh PYTHON: makes sure that PYTHON is 3.11 or newer and can make virtual environments and extensions.
set -eu
python=$1
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python is $("$python" -V 2>&1); Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2
    exit 1
}
# The system's own Python keeps these two in packages of their own; any other brings them along.
if [ "$("$python" -c 'import sys; print(sys.base_prefix)')" = /usr ]; then
    minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$(dirname "$0")/apt-need.sh" "virtual environments and headers" "python$minor-venv" "python$minor-dev"
fi
