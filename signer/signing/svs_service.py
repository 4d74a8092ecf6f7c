"""The operations of GB/T 38629-2020, each from its members to those of its answer.

Knows the engine, verification and CMS messages; not how members travel. An operation returns what goes beside
`respValue` 0, or raises: `response_of` says which response code an error of ours is.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

from core.asn1 import der
from core.asn1.x509 import public_key_from_spki
from core.clock import Clock
from core.errors import Conflict, Malformed, NotFound, QianyanError, Refused, TooLarge, Unavailable
from core.model import serial_from_hex
from core.store import certificates
from core.store.database import Database
from core.store.follow import FeedFollower
from core.store.keys import KeyRecord
from signer._native import sm2
from signer.engine.engine import SigningEngine
from signer.signing.cms_service import CmsService
from signer.signing.hierarchy import parse
from signer.signing.svs_certinfo import certificate_info
from signer.signing.svs_codec import Call, Code, Members, SvsError, bad_format, encode
from signer.signing.svs_keys import ServiceKeys
from signer.signing.svs_sessions import Kind, Session, Sessions
from signer.signing.svs_settings import SvsSettings
from signer.signing.verification import Depth, Verdict, VerificationService, VerifyItem

#: SGD_SM3_SM2, by GB/T 33560-2017 and as it was in 2012.
_SIGN_METHODS: Final = frozenset({0x00020201, 0x00020101})
_USER_ID_MAX_BYTES: Final = 8_191
_CERTIFICATE_MAX_BYTES: Final = 65_536
_SIGNATURE_MAX_BYTES: Final = 256
_DEPTHS: Final[tuple[Depth, ...]] = ("time", "chain", "status")
#: `state` of ValidateCert.
_GOOD: Final = "0"
_STATES: Final = {"revoked": {"state": "1"}, "suspended": {"state": "1"}, "unknown_status": {"state": "2"}}

_REASONS: Final = {
    "malformed": Code.INVALID_SIGNATURE,  # the certificate was read before: it is the signature that cannot be
    "signature": Code.INVALID_SIGNATURE,
    "chain": Code.CERT,
    "not_yet_valid": Code.CERT_INVALID_BF,
    "expired": Code.CERT_INVALID_AF,
    "key_usage": Code.CERT,
    "unknown_status": Code.CERT,
    "revoked": Code.CERT_REMOVED,
    "suspended": Code.CERT_REMOVED,
}

Respond = dict[str, str]


def response_of(error: QianyanError) -> Code:
    """The response code that an error of ours becomes."""
    if isinstance(error, SvsError):
        return error.response
    if isinstance(error, (Refused, NotFound)) and error.code.startswith("key_"):
        return Code.KEY_INDEX
    if isinstance(error, (Malformed, TooLarge, Refused)):
        return Code.INVALID_DATA_FORMAT
    return Code.SYSTEM_FAILURE


class SvsService:
    """See the module. `steady` never goes back; `clock` is the time of day.

    The key's list of callers is not asked: its authorisation code has admitted the call.
    """

    def __init__(
        self,
        engine: SigningEngine,
        verification: VerificationService,
        cms: CmsService,
        database: Database,
        follower: FeedFollower,
        settings: SvsSettings,
        clock: Clock,
        steady: Clock,
    ) -> None:
        self._engine = engine
        self._verification = verification
        self._cms = cms
        self._database = database
        self._settings = settings
        self._keys = ServiceKeys(database, follower, settings, clock, steady)
        self._sessions = Sessions(settings, steady)
        self._operations: dict[str, Callable[[Members, str], Awaitable[Respond]]] = {
            "exportCert": self._export_cert,
            "parseCert": self._parse_cert,
            "validateCert": self._validate_cert,
            "signData": self._sign_data,
            "verifySignedData": self._verify_signed_data,
            "signDataInit": lambda members, _: self._init(members, "sign"),
            "signDataUpdate": lambda members, _: self._update(members, "sign"),
            "signDataFinal": self._sign_data_final,
            "verifySignedDataInit": lambda members, _: self._init(members, "verify"),
            "verifySignedDataUpdate": lambda members, _: self._update(members, "verify"),
            "verifySignedDataFinal": self._verify_signed_data_final,
            "signMessage": self._sign_message,
            "verifySignedMessage": self._verify_signed_message,
        }

    async def run(self, call: Call, caller: str) -> Respond:
        """What goes beside respValue 0. Raises errors of ours, for `response_of`."""
        return await self._operations[call.operation](call.members, caller)

    # ---- certificates

    async def _export_cert(self, members: Members, _caller: str) -> Respond:
        for reading in members.readings("identification"):
            found = await self._identified(reading)
            if found is not None:
                return {"cert": encode(found)}
        raise SvsError(Code.CERT_ID, "no certificate has that identification")

    async def _identified(self, name: bytes) -> bytes | None:
        """By a key's index or id, or by the serial of a certificate of ours."""
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return None
        for index, key in (await self._keys.all()).items():
            if key.certificate is not None and text in (str(index), key.id):
                return key.certificate
        try:
            async with self._database.read() as connection:
                return (await certificates.find(connection, serial_from_hex(text))).certificate
        except (ValueError, NotFound, Conflict):
            return None

    async def _parse_cert(self, members: Members, _caller: str) -> Respond:
        info = certificate_info(members.octets("cert", _CERTIFICATE_MAX_BYTES), members.integer("infoType"))
        return {} if info is None else {"info": encode(info)}

    async def _validate_cert(self, members: Members, _caller: str) -> Respond:
        certificate = self._certificate(members)
        members.boolean("ocsp")  # the store is asked either way: it is what OCSP and CRLs are made from
        verdict = await self._judged(VerifyItem(None, certificate))
        if verdict.reason == "malformed":
            raise SvsError(Code.CERT_DECODE, verdict.detail or "the certificate's signature cannot be read")
        _raise_for(verdict, _STATES.get(verdict.reason or ""))
        return {"state": _GOOD}

    # ---- data in one piece

    async def _sign_data(self, members: Members, caller: str) -> Respond:
        _check_method(members)
        user_id, data = _user_id(members), self._data(members)
        key = await self._admitted(members)
        raw = await self._engine.sign_message(key.id, data, user_id=user_id, caller=caller, listed=False)
        return {"signature": encode(sm2.signature_to_der(raw))}

    async def _verify_signed_data(self, members: Members, _caller: str) -> Respond:
        _check_method(members)
        user_id, data = _user_id(members), self._data(members)
        signature, depth = members.octets("signature", _SIGNATURE_MAX_BYTES), _depth(members)
        certificate = await self._named_certificate(members)
        item = VerifyItem(signature, certificate, data=data, user_id=user_id, depth=depth)
        _raise_for(await self._judged(item))
        return {}

    # ---- data in pieces

    async def _init(self, members: Members, kind: Kind) -> Respond:
        _check_method(members)
        public_key = None
        if "signerPublicKey" in members:
            public_key = _public_key(members.octets("signerPublicKey", 256))
        return {"SessionID": encode(self._sessions.begin(kind, public_key, _user_id(members)))}

    async def _update(self, members: Members, kind: Kind) -> Respond:
        session_id = members.octets("SessionID", 64)
        await self._sessions.update(session_id, kind, self._data(members))
        return {"SessionID": encode(session_id)}

    async def _sign_data_final(self, members: Members, caller: str) -> Respond:
        session_id = members.octets("SessionID", 64)
        with self._sessions.using(session_id, "sign") as session:
            key = await self._admitted(members)  # a wrong code does not cost the session
            if session.public_key is not None and session.public_key != key.public_key:
                raise SvsError(Code.KEY_INDEX, "the key is not the one that the session began with")
            raw = await self._sign_session(session, key, caller)
        self._sessions.end(session_id)
        return {"signature": encode(sm2.signature_to_der(raw))}

    async def _sign_session(self, session: Session, key: KeyRecord, caller: str) -> bytes:
        digest = session.digest()
        if digest is not None:
            return await self._engine.sign_digests(key.id, digest, caller=caller, listed=False)
        data = session.data()
        return await self._engine.sign_message(key.id, data, user_id=session.user_id, caller=caller, listed=False)

    async def _verify_signed_data_final(self, members: Members, _caller: str) -> Respond:
        session_id = members.octets("SessionID", 64)
        signature, depth = members.octets("signature", _SIGNATURE_MAX_BYTES), _depth(members)
        with self._sessions.using(session_id, "verify") as session:
            certificate = await self._named_certificate(members)
            if session.public_key is not None and parse(certificate).point != session.public_key:
                raise SvsError(Code.CERT, "the certificate is for another key than the session began with")
            digest = session.digest()
            data = session.data() if digest is None else None
            item = VerifyItem(signature, certificate, data=data, digest=digest, user_id=session.user_id, depth=depth)
            verdict = await self._judged(item)
        self._sessions.end(session_id)
        _raise_for(verdict)
        return {}

    # ---- messages

    async def _sign_message(self, members: Members, caller: str) -> Respond:
        _check_method(members)
        user_id, data = _user_id(members), self._data(members)
        detached = not members.boolean("originalText")
        include_path, with_crl = members.boolean("certificateChain"), members.boolean("crl")
        key = await self._admitted(members)
        try:
            message = await self._cms.sign(
                key.id,
                data,
                caller=caller,
                listed=False,
                detached=detached,
                include="path" if include_path else "signer",
                with_crl=with_crl,
                user_id=user_id,
            )
        except Unavailable as error:
            if error.code == "crl":
                raise SvsError(Code.SERVER_CONNECT, error.detail) from error
            raise
        return {"signedMessage": encode(message)}

    async def _verify_signed_message(self, members: Members, _caller: str) -> Respond:
        message = members.octets("signedMessage", self._settings.max_body_bytes)
        data = self._data(members) if "inData" in members else None
        try:
            verified = await self._cms.verify(message, data=data, user_id=_user_id(members))
        except Refused as error:
            if error.code == "cms_content":
                raise SvsError(Code.INVALID_SIGNATURE, error.detail) from error
            raise
        except Unavailable as error:
            raise _unreachable() from error
        for verdict in verified.verdicts:
            _raise_for(verdict)
        return {}

    # ---- what several need

    async def _admitted(self, members: Members) -> KeyRecord:
        """The key, where the authorisation code admits to it."""
        return await self._keys.admit(members.integer("keyIndex"), members.readings("keyValue"))

    def _data(self, members: Members) -> bytes:
        return members.sized("inData", "inDataLen", self._settings.max_data_bytes)

    async def _judged(self, item: VerifyItem) -> Verdict:
        try:
            (verdict,) = await self._verification.verify([item])
        except Unavailable as error:
            raise _unreachable() from error
        return verdict

    async def _named_certificate(self, members: Members) -> bytes:
        """By `cert` (type 1) or `certSN` (type 2), a serial of ours."""
        kind = members.integer("type", default=1 if "cert" in members else 2)
        if kind == 1:
            return self._certificate(members)
        if kind != 2:
            raise bad_format("type is neither 1 nor 2")
        serials = [int.from_bytes(reading, "big") for reading in members.readings("certSN")]
        serials += [int(reading, 16) for reading in members.readings("certSN") if _HEX.fullmatch(reading)]
        for serial in serials:
            if not 0 < serial < 1 << 160:
                continue
            try:
                async with self._database.read() as connection:
                    return (await certificates.find(connection, serial)).certificate
            except (NotFound, Conflict):
                continue
        raise SvsError(Code.CERT, "there is no certificate with that serial, or more than one")

    def _certificate(self, members: Members) -> bytes:
        """`cert`, which is one of an SM2 key."""
        encoded = members.octets("cert", _CERTIFICATE_MAX_BYTES)
        try:
            parse(encoded)
        except Malformed as error:
            raise SvsError(Code.CERT_DECODE, error.detail) from error
        except Refused as error:
            raise SvsError(Code.CERT, error.detail) from error
        return encoded


_HEX: Final = re.compile(rb"[0-9a-fA-F]{1,40}")


def _check_method(members: Members) -> None:
    if members.integer("signMethod") not in _SIGN_METHODS:
        raise SvsError(Code.SIGN_METHOD, "only SM2 with SM3 (131585) is done here")


def _user_id(members: Members) -> bytes:
    if "signerID" not in members:
        return sm2.DEFAULT_ID
    return members.sized("signerID", "signerIDLen", _USER_ID_MAX_BYTES)


def _depth(members: Members) -> Depth:
    level = members.integer("verifyLevel", default=2)
    if level >= len(_DEPTHS):
        raise bad_format("verifyLevel is none of 0, 1 and 2")
    return _DEPTHS[level]


def _raise_for(verdict: Verdict, respond: Respond | None = None) -> None:
    if verdict.reason is not None:
        raise SvsError(_REASONS[verdict.reason], verdict.detail or verdict.reason, respond=respond)


def _unreachable() -> SvsError:
    return SvsError(Code.SERVER_CONNECT, "the certificate's status cannot be asked now", retry_after_s=1)


def _public_key(encoded: bytes) -> bytes:
    """The point (65 bytes) of a point, X ‖ Y, BIT STRING or SubjectPublicKeyInfo. Raises SvsError."""
    try:
        if encoded[:1] == b"\x30":
            encoded = public_key_from_spki(encoded)
        elif encoded[:2] == b"\x03\x42":
            encoded = der.Reader(encoded).bit_string()
        elif len(encoded) == 64:
            encoded = b"\x04" + encoded
        return sm2.PublicKey.from_bytes(encoded).to_bytes()
    except (QianyanError, sm2.InvalidKey) as error:
        raise bad_format("signerPublicKey is not an SM2 key") from error
