"""Write the comb table of the SM2 base point as a C header.

Usage: python tools/gen_sm2_tables.py [--check] [FILE]

Entry [i][j] is (2j+1) * 2**(6i) * G in affine coordinates, each coordinate
times 2**256 modulo p (Montgomery form), least significant limb first. The
output depends on nothing but the curve parameters of GB/T 32918.5, so running
this again must reproduce the committed file byte for byte; --check says
whether it does.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

P = 2**256 - 2**224 - 2**96 + 2**64 - 1
A = P - 3
GX = 0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7
GY = 0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0

BITS = 6
WINDOWS = 43  # 43 * 6 = 258 bits: one more than a 256-bit odd recoding needs
ENTRIES = 1 << (BITS - 1)

DEFAULT = pathlib.Path(__file__).resolve().parent.parent / "signer/_native/csrc/sm2_comb_table.h"

Point = tuple[int, int]


def add(p: Point, q: Point) -> Point:
    """p + q for finite p, q with p != -q."""
    rise, run = (3 * p[0] * p[0] + A, 2 * p[1]) if p == q else (q[1] - p[1], q[0] - p[0])
    slope = rise * pow(run, -1, P) % P
    x = (slope * slope - p[0] - q[0]) % P
    return x, (slope * (p[0] - x) - p[1]) % P


def table() -> list[list[Point]]:
    rows = []
    base = (GX, GY)
    for _ in range(WINDOWS):
        twice = add(base, base)
        row = [base]
        while len(row) < ENTRIES:
            row.append(add(row[-1], twice))
        rows.append(row)
        for _ in range(BITS):
            base = add(base, base)
    return rows


def limbs(value: int) -> str:
    mont = (value << 256) % P
    return ", ".join(f"0x{(mont >> 64 * i) & (2**64 - 1):016X}" for i in range(4))


def render() -> str:
    lines = [
        "/* Made by tools/gen_sm2_tables.py; do not edit. */",
        f"const uint64_t sm2_comb_table[{WINDOWS}][{ENTRIES}][8] = {{",
    ]
    for row in table():
        lines.append("    {")
        for x, y in row:
            lines.append(f"        {{{limbs(x)},")
            lines.append(f"         {limbs(y)}}},")
        lines.append("    },")
    lines.append("};")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the comb table of the SM2 base point.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    parser.add_argument("file", nargs="?", type=pathlib.Path, default=DEFAULT)
    args = parser.parse_args(argv)
    text = render()
    if args.check:
        if args.file.read_text(encoding="ascii") != text:
            print(f"{args.file} differs from what the generator writes", file=sys.stderr)
            return 1
        return 0
    args.file.write_text(text, encoding="ascii")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
