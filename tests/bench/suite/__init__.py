"""pytest-benchmark suites: `make bench-save` writes a baseline, `make bench-compare` shows what has become slower."""
