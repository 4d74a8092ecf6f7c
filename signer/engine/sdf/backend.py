"""Device keys as a KeyBackend: what the engine hands over goes to the pool.

Knows records and handles; which device signs is the pool's. Keys are made with the vendor's tools and registered here.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import Refused, SettingsError
from core.store.keys import KeyRecord
from signer.engine.backend import KeyHandle
from signer.engine.sdf.pool import SdfPool
from signer.engine.sdf.session import DeviceKey


class SdfBackend:
    """See the module. `parallel` batches may be signed at once. The pool is opened and closed by who made it."""

    may_sign_inline = False

    def __init__(self, pool: SdfPool) -> None:
        self._pool = pool
        self.parallel = pool.parallel_batches

    def create(self, key_id: str) -> KeyHandle:
        """See KeyBackend: always refused."""
        raise Refused(
            "a device's keys are made with its vendor's tool and then registered by their index", code="hsm_create"
        )

    def open(self, record: KeyRecord) -> KeyHandle:
        """See KeyBackend."""
        if record.device_index is None:
            raise SettingsError(f"key {record.id!r} has no index in a device", code="key_unreadable")
        return self._pool.open(record.device_index, record.public_key)

    def export(self, device_index: int) -> bytes:
        """See DeviceBackend."""
        return self._pool.export(device_index)

    def prove(self, device_index: int, public_key: bytes) -> None:
        """See DeviceBackend."""
        self._pool.prove(device_index, public_key)

    def sign(self, uses: Sequence[tuple[KeyHandle, int]], digests: bytes) -> bytes:
        """See KeyBackend. The digests of a batch are spread over the sessions of all devices."""
        keys: list[tuple[DeviceKey, int]] = []
        for handle, count in uses:
            assert isinstance(handle, DeviceKey)
            keys.append((handle, count))
        return self._pool.sign(keys, digests)
