"""A small certificate authority made by BouncyCastle alone, for our code to judge.

Root, issuing authority, a signing certificate, one that is revoked, a delegated OCSP responder and CRLs: what
a relying party meets from somebody else's system. Nothing of qianyan takes part.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.judges.bouncycastle import BouncyCastle
from tests.judges.views import KeyPair

CRL_URI = "http://crl.example.cn/issuing/0.crl"
GOOD_SERIAL = 0x1001
REVOKED_SERIAL = 0x1002
KEY_COMPROMISE = 1


def _whole_second(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class World:
    """Every object of the foreign authority, and the keys to make more."""

    judge: BouncyCastle
    now: datetime
    root_key: KeyPair
    issuing_key: KeyPair
    leaf_key: KeyPair
    responder_key: KeyPair
    root: bytes
    issuing: bytes
    leaf: bytes
    revoked_leaf: bytes
    responder: bytes
    crl: bytes
    root_crl: bytes

    def ocsp(self, serial: int, status: str, **changes: object) -> bytes:
        """A response about a serial by the delegated responder; keywords go to `make_ocsp_response`."""
        arguments: dict[str, object] = {
            "responder": self.responder,
            "private": self.responder_key.private,
            "this_update": self.now,
            "next_update": self.now + timedelta(hours=8),
            "produced_at": self.now,
        }
        arguments.update(changes)
        return self.judge.make_ocsp_response(self.issuing, serial, status, **arguments)  # type: ignore[arg-type]


def make_world(judge: BouncyCastle, now: datetime | None = None) -> World:
    """A fresh authority whose certificates are valid from an hour before `now` for a year."""
    now = _whole_second(now or datetime.now(UTC))
    start, end = now - timedelta(hours=1), now + timedelta(days=365)
    keys = [judge.generate() for _ in range(5)]
    root_key, issuing_key, leaf_key, revoked_key, responder_key = keys

    def certify(kind: str, title: str, key: KeyPair, serial: int, issuer: bytes | None, by: KeyPair) -> bytes:
        return judge.make_certificate(
            kind,
            f"C=CN,O=\u6d4b\u8bd5,CN={title}",
            key.public,
            private=by.private,
            issuer=issuer,
            serial=serial,
            not_before=start,
            not_after=end,
            crl_uri=CRL_URI if kind in {"sign", "encrypt"} else None,
        )

    root = certify("root", "Foreign Root", root_key, 1, None, root_key)
    issuing = certify("authority", "Foreign Issuing", issuing_key, 2, root, root_key)
    tomorrow = now + timedelta(hours=23)
    return World(
        judge=judge,
        now=now,
        root_key=root_key,
        issuing_key=issuing_key,
        leaf_key=leaf_key,
        responder_key=responder_key,
        root=root,
        issuing=issuing,
        leaf=certify("sign", "\u5f20\u4e09", leaf_key, GOOD_SERIAL, issuing, issuing_key),
        revoked_leaf=certify("sign", "\u674e\u56db", revoked_key, REVOKED_SERIAL, issuing, issuing_key),
        responder=certify("ocsp", "Foreign OCSP", responder_key, 3, issuing, issuing_key),
        crl=judge.make_crl(
            issuing,
            issuing_key.private,
            number=7,
            this_update=now,
            next_update=tomorrow,
            entries=[(REVOKED_SERIAL, KEY_COMPROMISE, now)],
            idp_uri=CRL_URI,
        ),
        root_crl=judge.make_crl(root, root_key.private, number=1, this_update=now, next_update=tomorrow),
    )
