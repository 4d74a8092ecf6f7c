"""The nonce given, which only a process that asked for it may do; and entropy that fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import vectors
from tests.native_sm2 import D, N
from tests.reference import sm2 as reference
from tests.reference.sm3 import sm3

NONCES = """
import json, sys
from signer._native import sm2
out = []
for d, e, k in json.load(sys.stdin):
    key = sm2.PrivateKey.from_bytes(bytes.fromhex(d))
    try:
        out.append(sm2._testing_sign_digest_with_nonce(key, bytes.fromhex(e), bytes.fromhex(k)).hex())
    except Exception as error:
        out.append(type(error).__name__)
json.dump(out, sys.stdout)
"""


def with_nonces(rows: list[tuple[int, bytes, int]]) -> list[str]:
    """Signatures with nonces given, from a process of its own; the name of the exception where there is none."""
    asked = [(f"{d:064x}", e.hex(), f"{k:064x}") for d, e, k in rows]
    ran = subprocess.run(
        [sys.executable, "-c", NONCES],
        input=json.dumps(asked),
        env={**os.environ, "QIANYAN_NATIVE_TESTING": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[str] = json.loads(ran.stdout)
    return found


def test_signatures_with_given_nonces_are_the_references() -> None:
    """The very r and s, over nonces with long runs, keys at both ends, and digests past n."""
    ks = [
        1,
        2,
        3,
        N - 1,
        N - 2,
        N - 3,
        *(1 << bit for bit in range(0, 256, 5)),
        *((1 << bit) - 1 for bit in range(5, 256, 9)),
    ]
    ks += [int.from_bytes(sm3(bytes([i])), "big") % N for i in range(60)]
    ds = [1, 2, N - 2, N - 3, D, int.from_bytes(sm3(b"d"), "big") % N]
    es = [sm3(b"e"), bytes(32), b"\xff" * 32, N.to_bytes(32, "big"), (N - 1).to_bytes(32, "big")]
    rows = [(ds[i % len(ds)], es[i % len(es)], k) for i, k in enumerate(ks)]
    rows.append(
        (
            D,
            bytes.fromhex("f0b43e94ba45accaace692ed534382eb17e6ab5a19ce7b31f4486fdfc0d28640"),
            0x59276E27D506861A16680F3AD9C02DCCEF3CC1FA3CDBE4CE6D54B80DEAC1BC21,
        )
    )
    for (d, e, k), found in zip(rows, with_nonces(rows), strict=True):
        try:
            r, s = reference.sign_digest(d, e, k)
        except reference.Invalid:
            assert len(found) != 128, (d, e.hex(), k)
            continue
        assert found == f"{r:064x}{s:064x}", (d, e.hex(), k)


def test_nonces_that_give_no_signature_are_refused() -> None:
    """GB/T 32918.2 6.1 A5 and A6: r=0, r+k=n, s=0; and nonces out of range."""
    rows = []
    for d in (5, D, N - 2):
        k = 123456789
        point = reference.SM2.multiply(k, reference.SM2.g)
        assert point is not None
        for r in (0, N - k, k * pow(d, -1, N) % N):
            rows.append((d, ((r - point[0]) % N).to_bytes(32, "big"), k))
    rows += [(D, sm3(b"e"), k) for k in (0, N, N + 1, 2**256 - 1)]
    for row, found in zip(rows, with_nonces(rows), strict=True):
        assert len(found) != 128, (row, found)
        assert found not in {"AttributeError", "TypeError"}, (row, found)


def test_the_nonce_is_not_to_be_chosen_in_service() -> None:
    """Without the environment's word, the function that takes a nonce is not there or does not act."""
    clean = {name: value for name, value in os.environ.items() if name != "QIANYAN_NATIVE_TESTING"}
    ran = subprocess.run(
        [sys.executable, "-c", NONCES],
        input=json.dumps([(f"{D:064x}", sm3(b"e").hex(), f"{7:064x}")]),
        env=clean,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    (found,) = json.loads(ran.stdout)
    assert len(found) != 128


def in_a_testing_process(script: str) -> str:
    """What a script prints that runs with the testing hooks."""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "QIANYAN_NATIVE_TESTING": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


FAILING = """
from signer._native import sm2
key = sm2.PrivateKey.from_bytes(bytes(31) + bytes([9]))
def broken(n):
    raise OSError
sources = {"raises": broken, "short": lambda n: bytes(n - 1), "nothing": lambda n: b"", "none": lambda n: None}
for name, source in sources.items():
    for call in (lambda: key.sign_digest(bytes(32)), lambda: sm2.sign_many(key, bytes(32 * 20)),
                 sm2.PrivateKey.generate, lambda: sm2.generate_many(3), lambda: key.public_key.encrypt(b"x" * 9)):
        sm2._testing_set_entropy(source)
        try:
            call()
            print(name, "went through")
        except sm2.EntropyError:
            print("refused")
        sm2._testing_set_entropy(None)
key.public_key.verify_digest(bytes(32), key.sign_digest(bytes(32)))
print("recovered")
"""


def test_a_failing_source_of_randomness_stops_everything() -> None:
    """No signature, key or ciphertext without entropy; and all is well once it is back."""
    assert in_a_testing_process(FAILING).split("\n") == ["refused"] * 20 + ["recovered", ""]


def hash_drbg(seed: bytes, blocks: int) -> list[int]:
    """The output of Hash_DRBG with SM3 (SP 800-90A 10.1.1.2, 10.1.1.4, 10.3.1), block by block."""
    head = (440).to_bytes(4, "big") + seed
    v = int.from_bytes((sm3(b"\x01" + head) + sm3(b"\x02" + head))[:55], "big")
    return [int.from_bytes(sm3(((v + i) % 2**440).to_bytes(55, "big")), "big") for i in range(blocks)]


DRAWN = """
from signer._native import sm2
seeds = iter([{seed!r}, bytes(range(48)), bytes(range(48))])
asked = []
def source(n):
    asked.append(n)
    return next(seeds)
sm2._testing_set_entropy(source)
for key in sm2.generate_many({count}):
    out = bytearray(32)
    key.export_into(out)
    print(out.hex())
print(asked)
"""


def test_a_batch_is_what_the_generator_of_its_seed_gives() -> None:
    """Keys, since they can be looked at; nonces come the same way."""
    for count in (16, 33, 128):
        seed = sm3(b"seed") + sm3(bytes([count]))[:16]
        *keys, asked = in_a_testing_process(DRAWN.format(seed=seed, count=count)).splitlines()
        assert [int(key, 16) for key in keys] == hash_drbg(seed, count)
        assert asked == "[48, 48]"  # the keys, and what checks them


STUCK = """
from signer._native import sm2
key = sm2.PrivateKey.from_bytes(bytes(31) + bytes([9]))
for unit in (b"\\0", b"\\xff", b"0123456789abcdef", b"0123456789abcdef0123456789ABCDEF"):
    sm2._testing_set_entropy(lambda n: (unit * n)[:n])
    for count in (2, 15, 16, 100, 1024):
        try:
            sm2.sign_many(key, bytes(32 * count))
            print("went through", unit, count)
        except sm2.EntropyError:
            print("refused")
"""


def test_a_source_that_repeats_itself_is_noticed() -> None:
    """Lanes from the source, and seeds: blocks that follow each other must differ. Sixteen bytes of a seed are one."""
    found = in_a_testing_process(STUCK).splitlines()
    assert found[:15] == ["refused"] * 15
    assert found[15:17] == ["refused"] * 2  # 32 bytes again and again; in a seed they are half of it


def test_encryption_with_a_given_nonce_is_the_standards() -> None:
    (vector,) = vectors.load("sm2")["sm2_encrypt"]
    point = "04" + vector["px"] + vector["py"]
    script = f"""
from signer._native import sm2
key = sm2.PublicKey.from_bytes(bytes.fromhex("{point}"))
for encoding in ("c1c3c2", "der"):
    found = sm2._testing_encrypt_with_nonce(
        key, b"{vector["msg_ascii"]}", bytes.fromhex("{vector["k"]}"), encoding=encoding)
    print(found.hex())
"""
    assert in_a_testing_process(script).split() == [vector["c1c3c2"], vector["der"]]
