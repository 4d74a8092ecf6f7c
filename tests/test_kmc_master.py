"""The master key in hardware modules: what is wrapped there, ceremonies, rotation, and modules that fail or lack it."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core.errors import Malformed, SettingsError, Unavailable
from core.store import certificates, escrow, kmc_masters
from core.store.kmc_masters import MasterRecord
from signer._native import sm2
from signer.engine.master import MasterKey, SoftwareMaster
from signer.engine.sdf import kek
from signer.engine.sdf.abi import DeviceMistake
from signer.engine.sdf.pool import SdfPool
from signer.engine.sdf.session import Session
from signer.holders.settings import HolderSettings
from signer.issuance.desk import Desk, DeskSettings, make_desk
from signer.issuance.kmc import KeyManagement
from signer.issuance.profiles import load_profiles
from signer.issuance.settings import KmcSettings
from signer.kmc import masters
from signer.kmc.hsm_master import HsmMaster, number_of
from tests.holder_world import SETTINGS, organisation
from tests.hsm_world import Hsm, make_devices, open_hsm, settings_for
from tests.issuance_support import Installation, Request, audit_rows, installation, keystore_in
from tests.kmc_world import scalar_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEK = bytes(range(16))


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hsm]:
    with open_hsm(tmp_path_factory.mktemp("hsm")) as made:
        for device in made.devices:
            device.put_kek(1, KEK)
            device.put_kek(2, bytes(reversed(KEK)))
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with installation(tmp_path_factory.mktemp("world")) as made:
        yield made


def master_over(hsm: Hsm, world: Installation, records: list[MasterRecord], later: list[MasterRecord]) -> HsmMaster:
    """`later`: what the store has when it is read again."""
    return HsmMaster(hsm.pool, records, lambda: later, SoftwareMaster(world.keystore))


def record_of(key: kek.KekKey, number: int = 1) -> MasterRecord:
    return MasterRecord(number, key.kek_index, key.wrapped, key.check_plain, key.check_cipher, 0)


@pytest.fixture
def master(hsm: Hsm, world: Installation) -> HsmMaster:
    made = hsm.pool.perform(lambda session: kek.generate(session, 1))
    return master_over(hsm, world, [record_of(made)], [])


async def test_what_is_wrapped_is_under_a_key_of_the_device(hsm: Hsm, master: HsmMaster) -> None:
    """Opened here with the KEK alone, by another implementation of SM4."""
    keys = sm2.generate_many(300)
    wrapped = master.wrap_many(keys)
    record = next(iter(master._known.values()))
    dek = Cipher(algorithms.SM4(KEK), modes.ECB()).decryptor().update(record.wrapped)
    for key, one in list(zip(keys, wrapped, strict=True))[::50]:
        assert (one[:5], one[5:70]) == (b"\2\0\0\0\1", key.public_key.to_bytes())
        own = Cipher(algorithms.SM4(dek), modes.ECB()).decryptor().update(one[70:86])
        opener = Cipher(algorithms.SM4(own), modes.GCM(one[86:98])).decryptor()
        opener.authenticate_additional_data(one[:86])
        assert opener.update(one[98:130]) + opener.finalize_with_tag(one[130:]) == scalar_of(key)
        assert scalar_of(master.unwrap(one)) == scalar_of(key)
    assert len({one[70:86] for one in wrapped}) == 300
    secret = secrets.token_bytes(32)
    sealed = master.wrap_secret("holder index 1", secret)
    assert number_of(sealed) == 1
    assert master.unwrap_secret("holder index 1", sealed) == secret
    with pytest.raises(Malformed):
        master.unwrap_secret("holder index 2", sealed)


async def test_any_change_shows(master: HsmMaster) -> None:
    wrapped = master.wrap(sm2.PrivateKey.generate())
    sealed = master.wrap_secret("p", b"secret")
    for value, opener in ((wrapped, master.unwrap), (sealed, lambda v: master.unwrap_secret("p", v))):
        for at in range(len(value)):
            with pytest.raises(Malformed) as met:
                opener(value[:at] + bytes((value[at] ^ 1,)) + value[at + 1 :])
            assert met.value.code == "wrapped_key"
        for end in range(0, len(value), 7):
            with pytest.raises(Malformed):
                opener(value[:end])


async def test_what_is_under_the_file_is_opened(master: HsmMaster, world: Installation) -> None:
    software, key = SoftwareMaster(world.keystore), sm2.PrivateKey.generate()
    assert scalar_of(master.unwrap(software.wrap(key))) == scalar_of(key)
    assert master.unwrap_secret("p", software.wrap_secret("p", b"secret")) == b"secret"


async def test_a_newer_master_key_of_another_process_is_found(hsm: Hsm, world: Installation) -> None:
    old, new = (record_of(hsm.pool.perform(lambda s: kek.generate(s, 1)), number) for number in (1, 2))
    here, there = master_over(hsm, world, [old], [old, new]), master_over(hsm, world, [old, new], [])
    key = sm2.PrivateKey.generate()
    wrapped = there.wrap(key)
    assert number_of(wrapped) == 2
    assert scalar_of(here.unwrap(wrapped)) == scalar_of(key)
    assert number_of(here.wrap(key)) == 2


async def test_a_module_that_fails_is_replaced_by_another(hsm: Hsm, master: HsmMaster) -> None:
    key = sm2.PrivateKey.generate()
    wrapped = master.wrap(key)
    hsm.devices[0].kill()
    try:
        for _ in range(4):
            assert scalar_of(master.unwrap(wrapped)) == scalar_of(key)
            master.wrap(key)
    finally:
        hsm.devices[0].repair()
    hsm.until_state(0, "in_service")
    assert scalar_of(master.unwrap(wrapped)) == scalar_of(key)


async def test_with_every_module_out_nothing_is_opened_until_one_is_back(world: Installation, tmp_path: Path) -> None:
    with open_hsm(tmp_path, 1, 1, request_timeout_ms=400, call_timeout_ms=200) as hsm:
        hsm.devices[0].put_kek(1, KEK)
        master = master_over(hsm, world, [record_of(hsm.pool.perform(lambda s: kek.generate(s, 1)))], [])
        key = sm2.PrivateKey.generate()
        wrapped = master.wrap(key)
        hsm.devices[0].kill()
        with pytest.raises(Unavailable):
            master.unwrap(wrapped)
        master.prove()  # a start: nothing is known, nothing is refused
        hsm.devices[0].repair()
        hsm.until_state(0, "in_service")
        assert scalar_of(master.unwrap(wrapped)) == scalar_of(key)


async def test_modules_that_lack_the_key(hsm: Hsm, master: HsmMaster) -> None:
    """One of two: the other serves. Both: a start is refused, and what runs says so."""
    key = sm2.PrivateKey.generate()
    wrapped = master.wrap(key)
    missing = [device.directory / "kek-1.key" for device in hsm.devices]
    try:
        missing[0].unlink()
        hsm.pool.resume("d0")
        assert [scalar_of(master.unwrap(wrapped)) for _ in range(4)] == [scalar_of(key)] * 4
        master.prove()
        missing[1].unlink()
        hsm.pool.resume("d1")
        with pytest.raises(
            SettingsError, match=r"no hardware module has master key 1.*no key-encryption key at index 1"
        ):
            master.prove()
        with pytest.raises(Unavailable) as met:
            master.unwrap(wrapped)
        assert met.value.code == "hsm_master_missing"
        for device in hsm.devices:
            device.put_kek(1, os.urandom(16))
        with pytest.raises(SettingsError, match="another than the one"):
            master.prove()
        with pytest.raises(Unavailable) as met:
            master.wrap(key)
        assert met.value.code == "hsm_master_mismatch"
    finally:
        for device in hsm.devices:
            device.put_kek(1, KEK)
    assert scalar_of(master.unwrap(wrapped)) == scalar_of(key)


async def test_a_library_without_the_functions(tmp_path: Path) -> None:
    devices = make_devices(tmp_path, 1, sm2.PrivateKey.generate(), "-DSOFTSDF_BARE")
    pool = SdfPool(settings_for(tmp_path, devices))
    pool.start()
    try:
        with pytest.raises(SettingsError, match="SDF_GenerateKeyWithKEK"):
            pool.perform(lambda session: kek.generate(session, 1))
    finally:
        pool.close()


async def test_a_handle_that_the_device_forgot_is_brought_in_again(hsm: Hsm, master: HsmMaster) -> None:
    wrapped = master.wrap(sm2.PrivateKey.generate())

    def forget(session: Session) -> None:
        for handle in session.symmetric.values():
            kek._destroy(session, handle)

    for _ in range(8):
        hsm.pool.perform(forget)
        master.unwrap(wrapped)


async def test_a_ceremony_needs_one_kek_everywhere(hsm: Hsm, world: Installation) -> None:
    hsm.devices[1].put_kek(9, KEK)
    with pytest.raises(SettingsError) as met:
        await masters.create(world.database, hsm.pool, 9, world.clock, "cli:test")
    assert met.value.code in ("kmc_master_refused", "hsm_master_missing")
    hsm.devices[0].put_kek(9, os.urandom(16))
    with pytest.raises(SettingsError, match="another than the one"):
        await masters.create(world.database, hsm.pool, 9, world.clock, "cli:test")
    assert await masters.load(world.database) == []
    assert isinstance(hsm.pool.perform_everywhere(lambda s: kek.generate(s, 10))["d0"], DeviceMistake)


async def test_from_the_file_into_modules_and_on_to_another_kek(hsm: Hsm, world: Installation) -> None:
    """Spare keys, keys in escrow and holders' keys are brought over, while a service goes on with them."""
    software = SoftwareMaster(world.keystore)
    database, clock = world.database, world.clock

    def desk_with(wrapper: MasterKey, spare: int) -> Desk:
        wanted = DeskSettings(SETTINGS, KmcSettings(spare_keys=spare), HolderSettings())
        return make_desk(database, world.signer_for, wrapper, load_profiles(), wanted, clock)

    desk = desk_with(software, 40)
    await KeyManagement(software, database, clock).refill(40)
    claim = organisation()
    request = Request()
    issued = await desk.issuer.issue(request.encode(), "organisation", actor="token:ra", holder=claim)
    assert await masters.open_master(database, "file", None, software) is software
    with pytest.raises(SettingsError, match="qianyan kmc master create"):
        await masters.open_master(database, "hsm", hsm.pool, software)
    with pytest.raises(SettingsError, match=r"\[\[hsm.devices\]\]"):
        await masters.open_master(database, "hsm", None, software)

    first = await masters.create(database, hsm.pool, 1, clock, "cli:test")
    with pytest.raises(SettingsError, match=r'set kmc\.master = "hsm"'):
        await masters.open_master(database, "file", None, software)
    running = await masters.open_master(database, "hsm", hsm.pool, software)
    assert isinstance(running, HsmMaster)
    before = await masters_count(world)
    assert before["spare"][0] >= 8
    assert (before["escrow"], before["holders"]) == ({0: 1, 1: 0}, {0: 2, 1: 0})

    rewrapping = masters.Rewrapping(database, running, clock, "cli:test").run()
    step = await anext(rewrapping)
    assert (step.place, step.left) == ("spare", 0)
    await rewrapping.aclose()  # broken off: the next one goes on
    steps = [one async for one in masters.Rewrapping(database, running, clock, "cli:test").run()]
    assert [(one.place, one.left) for one in steps] == [("escrow", 0), ("holders", 0)]
    assert {place: values[0] for place, values in (await masters_count(world)).items()} == dict.fromkeys(before, 0)
    assert [one async for one in masters.Rewrapping(database, running, clock, "cli:test").run()] == []

    second = await masters.create(database, hsm.pool, 2, clock, "cli:test")
    assert (first.id, second.id, second.kek_index) == (1, 2, 2)
    newer = await masters.open_master(database, "hsm", hsm.pool, software)
    assert isinstance(newer, HsmMaster)
    async for _ in masters.Rewrapping(database, newer, clock, "cli:test").run():
        pass
    counts = await masters_count(world)
    assert all(values[0] == values[1] == 0 for values in counts.values())

    (world.directory / "keys" / "kmc-master.pem").rename(world.directory / "kmc-master.pem")
    try:
        fresh = SoftwareMaster(keystore_in(world.directory / "keys"))
        master = await masters.open_master(database, "hsm", hsm.pool, fresh)
        desk = desk_with(master, 40)
        assert await desk.holders.reveal(issued.holder_id or "", actor="cli:test") == claim
        async with database.read() as connection:
            row = await certificates.find(connection, issued.certificates[1].serial)
            kept = await escrow.get(connection, row.id)
        enveloped = await desk.keys.restore(kept, request.key.public_key.to_bytes())
        assert enveloped
        again = await desk.issuer.issue(Request().encode(), "organisation", actor="token:ra")
        assert again.enveloped_key
    finally:
        (world.directory / "kmc-master.pem").rename(world.directory / "keys" / "kmc-master.pem")
    actions = [row[:2] for row in await audit_rows(database) if row[0].startswith("kmc.")]
    assert actions == [
        ("kmc.master", "master:1"),
        ("kmc.rewrap", "master:1"),
        ("kmc.rewrap", "master:1"),
        ("kmc.master", "master:2"),
        ("kmc.rewrap", "master:2"),
    ]


async def masters_count(world: Installation) -> dict[str, dict[int, int]]:
    async with world.database.read() as connection:
        numbers = [record.id for record in await kmc_masters.list_masters(connection)]
        return await kmc_masters.counts(connection, numbers)
