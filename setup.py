"""Builds the compiled core and lists the packages by name; everything else is in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
PACKAGES = [
    "core",
    "core.asn1",
    "core.store",
    "core.store.migrations",
    "core.store.migrations.versions",
    "signer",
    "signer._native",
    "signer.engine",
    "signer.engine.sdf",
    "signer.signing",
    "signer.issuance",
    "status",
    "crl",
    "service",
    "service.commands",
    "loadtest",
]

# The list of extensions lives beside their sources; it is run, not imported: importing signer._native needs them.
native = runpy.run_path(str(ROOT / "signer" / "_native" / "build.py"))

setup(
    packages=PACKAGES,
    include_package_data=False,
    package_data={
        "core": ["py.typed"],
        "core.store.migrations": ["script.py.mako"],
        "signer": ["py.typed"],
        "signer._native": ["*.pyi"],
        "signer.issuance": ["*.toml"],
        "status": ["py.typed"],
        "crl": ["py.typed"],
        "service": ["py.typed"],
    },
    ext_modules=native["extensions"](),
)
