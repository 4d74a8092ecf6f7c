"""`python -m loadtest`: the same as `qianyan-load`."""

from __future__ import annotations

from loadtest.cli import main

main(prog_name="qianyan-load")
