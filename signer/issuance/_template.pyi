from typing import final

@final
class Template:
    """The constant parts of one kind of to-be-signed certificate, with places for what differs.

    before_serial: of the body, through the header of the 16-octet serial. before_times, between_times: through the
    header of notBefore's and notAfter's contents, which have time_begin and time_end octets. before_point: from behind
    the subject through the header of the point. before_identifier, after_identifier: of the extensions, around the
    subject key identifier, up to where those of the request stand. status_oid: the status index's OID, tag included.
    """

    def __init__(
        self,
        *,
        before_serial: bytes,
        before_times: bytes,
        between_times: bytes,
        before_point: bytes,
        before_identifier: bytes,
        after_identifier: bytes,
        status_oid: bytes,
        time_begin: int,
        time_end: int,
    ) -> None: ...
    def assemble(
        self,
        serial: bytes,
        begin: bytes,
        end: bytes,
        subject: bytes,
        point: bytes,
        identifier: bytes,
        more: bytes,
        month: int,
        index: int,
    ) -> bytes:
        """The TBSCertificate. begin, end: the times' contents; subject: DER Name; more: encoded extensions.

        Raises ValueError for a part of another length than the template has.
        """

def split_request(encoded: bytes) -> tuple[bytes, list[tuple[bytes, int, bytes]], bytes, bytes] | None:
    """A plain PKCS#10 request in DER: its CertificationRequestInfo, its subject's attributes (OID's contents, string
    tag 0x0C or 0x13, contents), its SM2 point (65 octets, not checked to be on the curve), its signature's contents.

    Plain: one attribute in each RDN, UTF8String or PrintableString, an SM2 key in the usual form, no attributes, signed
    with SM2 and SM3. None for any other input, whatever it is.
    """
