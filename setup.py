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
    "signer.holders",
    "signer.importing",
    "signer.issuance",
    "signer.kmc",
    "signer.registration",
    "status",
    "status.directory",
    "status.set",
    "crl",
    "service",
    "service.capacity",
    "service.commands",
    "service.wire",
    "loadtest",
    "loadtest.scenarios",
    "loadtest.users",
    "qianyan_status",
    "qianyan_ra",
]

# Each list of extensions lives beside its sources; it is run, not imported: importing the packages needs them built.
BUILDS = [
    "signer/_native/build.py",
    "signer/engine/sdf/build.py",
    "status/build.py",
    "signer/issuance/build.py",
    "crl/extensions.py",
    "service/wire/build.py",
    "qianyan_status/build.py",
    "loadtest/build.py",
]

setup(
    packages=PACKAGES,
    include_package_data=False,
    package_data={
        "core": ["py.typed"],
        "core.store.migrations": ["script.py.mako"],
        "signer": ["py.typed"],
        "signer._native": ["*.pyi"],
        "signer.engine.sdf": ["*.pyi"],
        "signer.issuance": ["*.toml", "*.pyi"],
        "status": ["py.typed", "*.pyi"],
        "crl": ["py.typed", "*.pyi"],
        "service": ["py.typed"],
        "service.capacity": ["*.json"],
        "service.wire": ["*.pyi"],
        "qianyan_status": ["py.typed", "*.pyi"],
        "qianyan_ra": ["py.typed"],
        "loadtest": ["py.typed", "*.pyi"],
    },
    ext_modules=[extension for build in BUILDS for extension in runpy.run_path(str(ROOT / build))["extensions"]()],
)
