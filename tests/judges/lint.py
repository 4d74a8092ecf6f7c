"""pkilint as a judge of structure: RFC 5280 certificates and CRLs, RFC 6960 responses.

It knows nothing of windows in time or signatures. Findings come back with their severity; `complaints` keeps
those that matter (WARNING and above), less the few in `ALLOWED`, each with the reason why.
"""

from dataclasses import dataclass
from typing import Any

from tests.judges import JudgeMissing

try:
    from pkilint import loader, pkix
    from pkilint.cabf import cabf_crl
    from pkilint.pkix import certificate, crl, extension, name, ocsp
    from pkilint.validation import ValidationFindingSeverity as Severity
except ImportError as error:
    raise JudgeMissing("pkilint is not installed: pip install pkilint") from error


@dataclass(frozen=True)
class Finding:
    """One thing pkilint remarked on."""

    severity: str
    code: str
    path: str
    message: str


ALLOWED: dict[str, str] = {}


def _findings(results: list[Any]) -> list[Finding]:
    return [
        Finding(found.finding.severity.name, found.finding.code, str(result.node.path), found.message or "")
        for result in results
        for found in result.finding_descriptions
    ]


def complaints(findings: list[Finding]) -> list[Finding]:
    """WARNING, ERROR and FATAL findings that are not in `ALLOWED`."""
    serious = {level.name for level in Severity if level <= Severity.WARNING}
    return [f for f in findings if f.severity in serious and f.code not in ALLOWED]


def lint_certificate(der: bytes) -> list[Finding]:
    """`lint_pkix_cert lint`: the RFC 5280 certificate profile."""
    validator = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    document = loader.load_der_certificate(der, "certificate")
    return _findings(validator.validate(document.root))


def lint_crl(der: bytes, *, browser_rules: bool = False) -> list[Finding]:
    """`lint_crl lint -t CRL -p PKIX`, or `-p BR` for the CA/Browser Forum's reason codes and life times."""
    kind = crl.CertificateRevocationListType.CRL
    validity: list[Any] = []
    whole: list[Any] = []
    if browser_rules:
        whole.append(cabf_crl.CabfCrlReasonCodeAllowlistValidator(kind))
        validity.append(cabf_crl.create_validity_period_validator(kind))
    validator = crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container(validity),
            crl.create_extensions_validator_container([]),
            *whole,
        ],
    )
    document = loader.load_der_crl(der, "crl")
    return _findings(validator.validate(document.root))


def lint_ocsp(der: bytes) -> list[Finding]:
    """`lint_ocsp_response lint`: the RFC 6960 response profile."""
    validator = ocsp.create_pkix_ocsp_response_validator_container(
        [
            ocsp.create_response_decoder(),
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [],
    )
    document = loader.load_der_ocsp_response(der, "response")
    return _findings(validator.validate(document.root))
