"""Settings of verification: whom to trust, where foreign status may be fetched, how reports are signed."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from core.settings import Settings


def _is_prefix(text: str) -> str:
    """An allow-list entry: scheme, host and path, and nothing that could be misread."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.startswith("/"):
        raise ValueError(f"{text!r} must be http:// or https:// with a host and a path, at least /")
    if parts.query or parts.fragment or parts.username or parts.password or parts.hostname != parts.hostname.lower():
        raise ValueError(f"{text!r} must have no user, query or fragment")
    return text


class ForeignStatusSettings(Settings):
    """`[verification.foreign]`: the status of certificates that other authorities issued."""

    allow: tuple[Annotated[str, AfterValidator(_is_prefix)], ...] = ()
    """URLs from which CRLs and OCSP answers may be fetched: all under one that ends with "/", as
    "http://crl.example.cn/sm2/" does, else that one alone. Nothing else is ever contacted, redirects included; empty:
    nothing is fetched, and a foreign certificate's status is unknown."""

    order: tuple[Literal["ocsp", "crl"], ...] = ("ocsp", "crl")
    """What is asked, in this order, until one answers."""

    ocsp_hashes: tuple[Literal["sm3", "sha1", "sha256"], ...] = ("sm3", "sha1")
    """Digests for the CertID of an OCSP request, in this order, until the responder knows one."""

    fetch_timeout_s: float = Field(default=5.0, gt=0, le=120)
    """How long one fetch may take, connection to last byte."""

    call_timeout_s: float = Field(default=15.0, gt=0, le=300)
    """How long a call waits for all foreign status that it needs; what has not come by then is unknown."""

    max_crl_bytes: int = Field(default=16 << 20, ge=1_024)
    """The longest CRL that is read."""

    max_ocsp_bytes: int = Field(default=65_536, ge=1_024)
    """The longest OCSP answer that is read."""

    max_redirects: int = Field(default=3, ge=0, le=10)
    """How many redirects a CRL fetch follows, each within `allow`; an OCSP request follows none."""

    max_fetches: int = Field(default=16, ge=1, le=1_024)
    """How many fetches are under way at a time in one worker."""

    max_questions: int = Field(default=2_000, ge=1)
    """How many certificates' foreign status one call may ask for; more are unknown."""

    max_cache_bytes: int = Field(default=128 << 20, ge=1 << 20)
    """About how much memory the kept CRLs and OCSP answers take in one worker; the least recently used go first."""

    ocsp_max_age_s: int = Field(default=3_600, ge=1)
    """How old an OCSP answer without nextUpdate may be."""

    clock_skew_s: int = Field(default=300, ge=0, le=3_600)
    """How far ahead of our clock another's thisUpdate may lie."""

    backoff_first_s: float = Field(default=1.0, gt=0)
    """How long a source that failed is left alone; it doubles with each further failure."""

    backoff_max_s: float = Field(default=300.0, gt=0)
    """The longest that a failing source is left alone."""


class ReportSettings(Settings):
    """`[verification.report]`: signed records of what was verified."""

    key: str | None = None
    """The data key that signs reports; it must have its certificate (`qianyan key service --certificate`). Without it
    there are no reports."""

    fonts: tuple[str, ...] = ()
    """TrueType files for PDFs (`qianyan report render --pdf`), Latin first, that together have Chinese characters.
    Empty: Debian's fonts-dejavu-core with fonts-droid-fallback, else fonts-wqy-microhei or fonts-wqy-zenhei."""

    public: bool = False
    """Whether anybody may ask for a report on the public listener; else it takes a token of scope `sign`."""

    max_items: int = Field(default=1_000, ge=1)
    """The most items of one report."""

    max_reference_chars: int = Field(default=200, ge=0, le=2_000)
    """The longest reference that a caller may have written into a report."""


class VerificationSettings(Settings):
    """`[verification]`: paths, foreign status, reports."""

    anchors: tuple[str, ...] = ()
    """Files (PEM with any number of certificates, or DER) or directories of them: authorities trusted beside ours."""

    intermediates: tuple[str, ...] = ()
    """Files or directories of certificates that may stand in a path, cross-certificates among them; not trusted by
    themselves."""

    max_depth: int = Field(default=6, ge=1, le=16)
    """The most authorities in a path, the anchor among them."""

    max_candidates: int = Field(default=64, ge=1, le=10_000)
    """How many issuers are tried in the search for the paths of one authority."""

    max_path_signatures: int = Field(default=64, ge=1, le=10_000)
    """How many signatures are checked in the search for the paths of one authority."""

    max_paths: int = Field(default=4, ge=1, le=64)
    """How many paths of one authority are kept; one that holds is enough."""

    max_intermediates: int = Field(default=32, ge=0, le=1_000)
    """The most certificates that one call may bring along for its paths."""

    certificate_cache: int = Field(default=10_000, ge=0)
    """How many certificates stay parsed, and signatures on certificates known, from one call to the next."""

    max_records: int = Field(default=65_536, ge=1)
    """The most records of one `POST /v1/verify` in octets."""

    threads: int = Field(default=2, ge=1, le=256)
    """How many long verifications are under way in threads at a time in one worker."""

    foreign: ForeignStatusSettings = ForeignStatusSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _backoff_ordered(self) -> Self:
        if self.foreign.backoff_first_s > self.foreign.backoff_max_s:
            raise ValueError("foreign.backoff_first_s is longer than foreign.backoff_max_s")
        return self
