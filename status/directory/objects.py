"""An S3-compatible bucket as a sink: CRLs and authorities' certificates, at the paths of the public listener.

Certificates of holders are not put there. A CRL is never put in the place of a newer one: its number is the object's
metadata. Knows the object store's client; no store of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import S3Store

from core.errors import Malformed, Refused
from status.directory import crl_facts
from status.directory.settings import ObjectTargetSettings
from status.directory.sinks import Applied, AuthorityContent, Content, Crl, CrlContent, Mark, Reference, SinkDown

if TYPE_CHECKING:
    from obstore import UpdateVersion

_CRL_TYPE: Final = "application/pkix-crl"
_CERTIFICATE_TYPE: Final = "application/pkix-cert"
_MARK: Final = "qianyan-publication.txt"
#: How often an object that somebody else changes meanwhile is looked at anew.
_ATTEMPTS: Final = 4


class ObjectSink:
    """See the module. `secret` empty: requests are not signed."""

    def __init__(self, settings: ObjectTargetSettings, secret: bytes) -> None:
        self.settings = settings
        keys = {"access_key_id": settings.access_key_id, "secret_access_key": secret.decode()} if secret else {}
        self._store = S3Store(
            settings.bucket,
            endpoint=settings.endpoint,
            region=settings.region,
            virtual_hosted_style_request=not settings.path_style,
            skip_signature=not secret,
            client_options={
                "timeout": timedelta(seconds=settings.operation_timeout_s),
                "allow_http": settings.endpoint.startswith("http:"),
            },
            retry_config={"max_retries": 0},  # the publisher has its own patience
            **keys,  # type: ignore[arg-type]
        )

    def _path(self, name: str) -> str:
        return f"{self.settings.prefix}{name}"

    async def open(self) -> Mark | None:
        """See Sink."""
        return await self.read_mark()

    async def read_mark(self) -> Mark | None:
        """See Sink."""
        try:
            found = await obstore.get_async(self._store, self._path(_MARK))
            identity, _, position = bytes(await found.bytes_async()).decode().partition(" ")
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise SinkDown(_explain(error)) from error
        return Mark(identity, int(position))

    async def mark(self, mark: Mark) -> None:
        """See Sink."""
        try:
            await obstore.put_async(self._store, self._path(_MARK), f"{mark.identity} {mark.position}".encode())
        except BaseError as error:
            raise SinkDown(_explain(error)) from error

    async def apply(self, contents: Sequence[tuple[Reference, Content]], guard: Callable[[], None]) -> Applied:
        """See Sink."""
        applied = Applied()
        for reference, content in contents:
            try:
                if isinstance(content, CrlContent):
                    stem = f"crl/{content.authority_id}/{content.partition}"
                    applied.changed += await self._put_crl(f"{stem}.crl", content.full, guard)
                    if content.delta is not None:
                        applied.changed += await self._put_crl(f"{stem}-delta.crl", content.delta, guard)
                elif isinstance(content, AuthorityContent) and content.certificate is not None:
                    guard()
                    await self._put(f"ca/{content.authority_id}.cer", content.certificate, _CERTIFICATE_TYPE, None)
                    applied.changed += 1
            except Refused as error:
                applied.refused[reference] = error.detail
            except BaseError as error:
                raise SinkDown(_explain(error)) from error
        return applied

    async def _put_crl(self, name: str, crl: Crl, guard: Callable[[], None]) -> int:
        """1 where the object was not that CRL yet. It is replaced only if it is still the one that was looked at."""
        for _ in range(_ATTEMPTS):
            version = None
            try:
                found = await obstore.get_async(self._store, self._path(name))
                body = bytes(await found.bytes_async())
                version = found.meta.get("e_tag")
            except (NotFoundError, FileNotFoundError):
                body = b""
            if body == crl.body:
                return 0
            if body and _number(body) > crl.number:
                raise Refused(f"{name} holds a newer CRL; an older one is never put in its place", code="object_newer")
            guard()
            try:
                await self._put(name, crl.body, _CRL_TYPE, version)
                return 1
            except (PreconditionError, AlreadyExistsError):
                continue
        raise Refused(f"{name} is changed by somebody else all the time", code="object_contended")

    async def _put(self, name: str, body: bytes, kind: str, version: str | None) -> None:
        attributes = {"Content-Type": kind, "Cache-Control": "no-cache"}
        mode: UpdateVersion | Literal["overwrite"] = "overwrite" if version is None else {"e_tag": version}
        await obstore.put_async(
            self._store, self._path(name), body, attributes=attributes, mode=mode, use_multipart=False
        )

    async def close(self) -> None:
        """See Sink."""


def _number(body: bytes) -> int:
    """The CRLNumber of what lies there; -1 for what is no CRL and may be written over."""
    try:
        found = crl_facts.number(body)
    except Malformed:
        return -1
    return -1 if found is None else found


def _explain(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] or type(error).__name__
