"""Makes and verifies SignedData for applications, and encrypts for the holders of certificates.

Knows the engine, the store and verification; not HTTP. A signer's certificate comes from the message, or, where the
message leaves it out, from our own store; either way it is judged as by `VerificationService`, and so is its status,
whatever CRLs the message carries.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from core.errors import Malformed, NotFound, Refused, TooLarge, Unavailable
from core.store import authorities, certificates, crls, keys
from core.store.database import Database
from signer._native import sm2
from signer.engine.engine import SigningEngine
from signer.engine.keyuse import APPLICATION_PURPOSES
from signer.signing import cms, cms_enveloped
from signer.signing.cms import IssuerAndSerial, SignedData, SignerInfo
from signer.signing.hierarchy import Issuer, parse
from signer.signing.settings import SigningSettings
from signer.signing.verification import Verdict, VerificationService, VerifyItem

#: Which certificates a message carries: none, the signer's, or its whole path.
Include = Literal["none", "signer", "path"]


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of a message: a verdict per signer, in the message's order, and its content where it carries one."""

    verdicts: tuple[Verdict, ...]
    content: bytes | None

    @property
    def valid(self) -> bool:
        """Whether every signer's signature and certificate hold."""
        return bool(self.verdicts) and all(verdict.valid for verdict in self.verdicts)


class CmsService:
    """See the module."""

    def __init__(
        self, engine: SigningEngine, verification: VerificationService, database: Database, settings: SigningSettings
    ) -> None:
        self._engine = engine
        self._verification = verification
        self._database = database
        self._settings = settings

    async def sign(
        self,
        key_id: str,
        content: bytes,
        *,
        caller: str,
        detached: bool,
        listed: bool = True,
        include: Include = "path",
        with_crl: bool = False,
        user_id: bytes = sm2.DEFAULT_ID,
    ) -> bytes:
        """SignedData over `content`, by a key that has a certificate. `listed`: as `SigningEngine.sign_digests`.

        Raises as `SigningEngine.sign_message`; NotFound (code "key_unknown"), Refused (code "key_certificate": it has
        none; "cms_ambiguous": the content would do as a signer's attributes), Unavailable (code "crl": a CRL is asked
        for, and none is published).
        """
        cms.require_content(content)
        async with self._database.read() as connection:
            certificate = (await keys.get(connection, key_id)).certificate
        if certificate is None:
            raise Refused(f"key {key_id!r} has no certificate", code="key_certificate", field="key")
        parsed = parse(certificate)
        issuer = (await self._verification.hierarchy()).issuer_of(parsed)
        enclosed = [] if include == "none" else [certificate]
        if include == "path" and issuer is not None:
            enclosed += [link.parsed.signed.encode() for link in issuer.path()]
        enclosed_crls = [await self._crl(issuer, parsed.serial)] if with_crl else []
        raw = await self._engine.sign_message(
            key_id, content, user_id=user_id, caller=caller, purpose=APPLICATION_PURPOSES, listed=listed
        )
        signer = SignerInfo(IssuerAndSerial(parsed.issuer, parsed.serial), sm2.signature_to_der(raw))
        return SignedData(None if detached else content, (signer,), tuple(enclosed), tuple(enclosed_crls)).encode()

    async def _crl(self, issuer: Issuer | None, serial: int) -> bytes:
        """The CRL in force for a serial of ours."""
        try:
            if issuer is None:
                raise NotFound("the certificate is not from one of our authorities")
            async with self._database.read() as connection:
                found = await certificates.find(connection, serial, issuer.authority_id)
                crl = await crls.latest(connection, found.authority_id, found.partition)
        except NotFound as error:
            raise Unavailable("there is no CRL for the key's certificate here", code="crl") from error
        if crl is None:
            raise Unavailable("no CRL is published for the key's certificate", code="crl")
        return crl.crl

    async def verify(
        self, encoded: bytes, *, data: bytes | None = None, at_ms: int | None = None, user_id: bytes = sm2.DEFAULT_ID
    ) -> Verified:
        """A verdict per signer. `data`: the content, where the message is detached.

        Raises Malformed, Refused or TooLarge for what is no such message; Refused (code "cms_no_content",
        "cms_no_signer", "cms_content": it carries other content than `data`); Busy, Unavailable.
        """
        message = await self._parsed(encoded)
        content = message.content if data is None else data
        if content is None:
            raise Refused("the message is detached: its content is needed, too", code="cms_no_content", field="data")
        if len(content) > self._settings.max_data_bytes:
            limit = self._settings.max_data_bytes
            raise TooLarge(f"the content has more than {limit} bytes", code="field_size", field="cms")
        if message.content is not None and message.content != content:
            raise Refused("the message carries other content", code="cms_content", field="data")
        return Verified(await self.verdicts(message, content, at_ms=at_ms, user_id=user_id), message.content)

    async def verdicts(
        self, message: SignedData, content: bytes, *, at_ms: int | None = None, user_id: bytes = sm2.DEFAULT_ID
    ) -> tuple[Verdict, ...]:
        """A verdict per signer of `message` over `content`, in order."""
        if not message.signers:
            raise Refused("nobody has signed the message", code="cms_no_signer")
        enclosed = {IssuerAndSerial.of_certificate(encoded): encoded for encoded in message.certificates}
        verdicts: list[Verdict | None] = []
        items: list[VerifyItem] = []
        for signer in message.signers:
            certificate = enclosed.get(signer.identifier) or await self._stored(signer.identifier)
            if certificate is None:
                verdicts.append(Verdict("chain", "the signer's certificate is neither in the message nor known here"))
                continue
            try:
                signed = await self._to_be_signed(signer, content)
            except Refused as error:
                verdicts.append(Verdict("signature", error.detail, signer.identifier.serial))
                continue
            verdicts.append(None)
            items.append(VerifyItem(signer.signature, certificate, data=signed, user_id=user_id, at_ms=at_ms))
        # The certificates that came along may stand in the signers' paths; a message has few of them.
        helping = message.certificates[: self._verification.bounds.max_intermediates]
        judged = iter(await self._verification.verify(items, intermediates=helping))
        return tuple(next(judged) if verdict is None else verdict for verdict in verdicts)

    async def encrypt(self, certificate: bytes, content: bytes) -> bytes:
        """EnvelopedData for the holder of an encryption certificate that stands now."""
        await self.check_recipient(certificate)
        return await asyncio.to_thread(cms_enveloped.envelope, [certificate], content)

    async def check_recipient(self, certificate: bytes) -> sm2.PublicKey:
        """The key of a certificate that stands now and is for encryption.

        Raises Malformed; Refused with code "certificate_" and the reason (`certificate_revoked`, ...).
        """
        if len(certificate) > self._settings.max_certificate_bytes:
            raise Malformed("the certificate is too long", code="certificate", field="certificate")
        parsed = parse(certificate)
        usage = parsed.key_usage
        if usage is None or not (usage.key_encipherment or usage.data_encipherment or usage.key_agreement):
            raise Refused("the certificate is not for encryption", code="certificate_key_usage", field="certificate")
        (verdict,) = await self._verification.verify([VerifyItem(None, certificate)])
        if not verdict.valid:
            code = f"certificate_{verdict.reason}"
            raise Refused(f"the certificate does not stand: {verdict.reason}", code=code, field="certificate")
        return parsed.public_key

    async def _parsed(self, encoded: bytes) -> SignedData:
        if len(encoded) <= self._settings.verify_inline_max_bytes:
            return cms.parse_signed_data(encoded)
        return await asyncio.to_thread(cms.parse_signed_data, encoded)

    async def _to_be_signed(self, signer: SignerInfo, content: bytes) -> bytes:
        if len(content) <= self._settings.verify_inline_max_bytes:
            return signer.to_be_signed(content)
        return await asyncio.to_thread(signer.to_be_signed, content)

    async def _stored(self, identifier: IssuerAndSerial) -> bytes | None:
        """A certificate of our own, by issuer and serial."""
        if not identifier.serial < 1 << 160:
            return None
        async with self._database.read() as connection:
            for authority in await authorities.list_all(connection):
                if authority.subject == identifier.issuer:
                    try:
                        return (await certificates.find(connection, identifier.serial, authority.id)).certificate
                    except NotFound:
                        continue
        return None
