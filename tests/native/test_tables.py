"""The committed table is what the committed generator writes, and what a second derivation finds."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from .compiling import CORE

GENERATOR = Path(__file__).resolve().parents[2] / "tools" / "gen_sm2_tables.py"
N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_sm2_tables", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_reproduced_byte_for_byte() -> None:
    assert generator().render() == (CORE / "sm2_comb_table.h").read_text(encoding="ascii")


def test_a_changed_table_is_noticed(tmp_path: Path) -> None:
    text = (CORE / "sm2_comb_table.h").read_text(encoding="ascii")
    changed = tmp_path / "table.h"
    changed.write_text(text.replace("0x6", "0x7", 1), encoding="ascii")
    assert generator().main(["--check", str(changed)]) == 1
    assert generator().main(["--check", str(CORE / "sm2_comb_table.h")]) == 0


def test_entries_are_the_multiples_they_should_be() -> None:
    """Read back from the header, and compared with public keys found by the service itself."""
    from signer._native import sm2

    p = 2**256 - 2**224 - 2**96 + 2**64 - 1
    limbs = [int(x, 16) for x in re.findall(r"0x([0-9A-F]{16})", (CORE / "sm2_comb_table.h").read_text())]
    assert len(limbs) == 43 * 32 * 8
    unmont = pow(2**256, -1, p)
    for i in range(43):
        for j in (0, 1, 17, 31):
            at = (i * 32 + j) * 8
            x, y = (
                sum(limb << 64 * n for n, limb in enumerate(limbs[at + part : at + part + 4])) * unmont % p
                for part in (0, 4)
            )
            scalar = (2 * j + 1) * 2 ** (6 * i) % N
            public = sm2.PrivateKey.from_bytes(scalar.to_bytes(32, "big")).public_key.to_bytes()
            assert public == b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
