/*
 * Signs a registration authority's request with BouncyCastle: GM/T 0010 SignedData around the request's JSON.
 *
 *   java -cp bcprov.jar:bcpkix.jar:bcutil.jar RaRequest.java KEY.pem CERTIFICATE.pem REQUEST OUT
 *
 * REQUEST is the JSON to be signed, or a signed request that gets a second person's signature beside the first one.
 * KEY.pem is PKCS#8; the passphrase of an encrypted one (AES: BouncyCastle 1.72 does not open SM4 there) is in the
 * environment variable RA_PASSPHRASE. OUT is what is sent: POST /v1/requests, Content-Type application/pkcs7-mime.
 * Only BouncyCastle's public classes decide what is written; nothing here knows qianyan's code.
 */

import java.io.FileReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.SecureRandom;
import java.security.Security;
import java.util.Date;
import org.bouncycastle.asn1.ASN1Encodable;
import org.bouncycastle.asn1.ASN1EncodableVector;
import org.bouncycastle.asn1.ASN1Encoding;
import org.bouncycastle.asn1.ASN1Integer;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.ASN1OctetString;
import org.bouncycastle.asn1.ASN1Set;
import org.bouncycastle.asn1.DERNull;
import org.bouncycastle.asn1.DEROctetString;
import org.bouncycastle.asn1.DERSet;
import org.bouncycastle.asn1.cms.Attribute;
import org.bouncycastle.asn1.cms.CMSAttributes;
import org.bouncycastle.asn1.cms.Time;
import org.bouncycastle.asn1.pkcs.ContentInfo;
import org.bouncycastle.asn1.pkcs.IssuerAndSerialNumber;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.asn1.pkcs.SignedData;
import org.bouncycastle.asn1.pkcs.SignerInfo;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.crypto.params.ParametersWithID;
import org.bouncycastle.crypto.params.ParametersWithRandom;
import org.bouncycastle.crypto.signers.SM2Signer;
import org.bouncycastle.crypto.util.PrivateKeyFactory;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JceOpenSSLPKCS8DecryptorProviderBuilder;
import org.bouncycastle.pkcs.PKCS8EncryptedPrivateKeyInfo;

public final class RaRequest {
    private static final String CONTENT_TYPES = "1.2.156.10197.6.1.4.2.";
    private static final ASN1ObjectIdentifier DATA = new ASN1ObjectIdentifier(CONTENT_TYPES + "1");
    private static final ASN1ObjectIdentifier SIGNED_DATA = new ASN1ObjectIdentifier(CONTENT_TYPES + "2");
    private static final AlgorithmIdentifier SM3 = algorithm("1.2.156.10197.1.401");
    private static final AlgorithmIdentifier SM2_SIGN = algorithm("1.2.156.10197.1.301.1");
    private static final byte[] USER_ID = "1234567812345678".getBytes(java.nio.charset.StandardCharsets.US_ASCII);

    private RaRequest() {}

    private static AlgorithmIdentifier algorithm(String oid) {
        return new AlgorithmIdentifier(new ASN1ObjectIdentifier(oid), DERNull.INSTANCE);
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 4) {
            System.err.println("RaRequest KEY.pem CERTIFICATE.pem REQUEST OUT");
            System.exit(2);
        }
        Security.addProvider(new BouncyCastleProvider());
        PrivateKeyInfo key = readKey(arguments[0]);
        X509CertificateHolder certificate = (X509CertificateHolder) readPem(arguments[1]);
        byte[] given = Files.readAllBytes(Path.of(arguments[2]));
        Files.write(Path.of(arguments[3]), given[0] == 0x30 ? approve(given, key, certificate) : enter(given, key, certificate));
    }

    private static Object readPem(String file) throws Exception {
        try (PEMParser parser = new PEMParser(new FileReader(file))) {
            return parser.readObject();
        }
    }

    private static PrivateKeyInfo readKey(String file) throws Exception {
        Object found = readPem(file);
        if (found instanceof PrivateKeyInfo) return (PrivateKeyInfo) found;
        char[] passphrase = System.getenv("RA_PASSPHRASE").toCharArray();
        return ((PKCS8EncryptedPrivateKeyInfo) found)
            .decryptPrivateKeyInfo(new JceOpenSSLPKCS8DecryptorProviderBuilder().setProvider("BC").build(passphrase));
    }

    /** The request signed by one person. */
    private static byte[] enter(byte[] content, PrivateKeyInfo key, X509CertificateHolder certificate) throws Exception {
        return encode(content, new DERSet(certificate.toASN1Structure()), new DERSet(signer(content, key, certificate)));
    }

    /** A second person's signature over the same octets, beside the first one. */
    private static byte[] approve(byte[] message, PrivateKeyInfo key, X509CertificateHolder certificate) throws Exception {
        SignedData signed = SignedData.getInstance(ContentInfo.getInstance(message).getContent());
        byte[] content = ASN1OctetString.getInstance(signed.getContentInfo().getContent()).getOctets();
        return encode(content, with(signed.getCertificates(), certificate.toASN1Structure()),
            with(signed.getSignerInfos(), signer(content, key, certificate)));
    }

    private static ASN1Set with(ASN1Set set, ASN1Encodable more) {
        ASN1EncodableVector members = new ASN1EncodableVector();
        for (ASN1Encodable each : set) members.add(each);
        members.add(more);
        return new DERSet(members);
    }

    private static byte[] encode(byte[] content, ASN1Set certificates, ASN1Set signers) throws Exception {
        SignedData signed = new SignedData(new ASN1Integer(1), new DERSet(SM3),
            new ContentInfo(DATA, new DEROctetString(content)), certificates, null, signers);
        return new ContentInfo(SIGNED_DATA, signed).getEncoded(ASN1Encoding.DER);
    }

    private static SignerInfo signer(byte[] content, PrivateKeyInfo key, X509CertificateHolder certificate) throws Exception {
        ASN1EncodableVector attributes = new ASN1EncodableVector();
        attributes.add(new Attribute(CMSAttributes.contentType, new DERSet(DATA)));
        attributes.add(new Attribute(CMSAttributes.signingTime, new DERSet(new Time(new Date()))));
        attributes.add(new Attribute(CMSAttributes.messageDigest,
            new DERSet(new DEROctetString(MessageDigest.getInstance("SM3", "BC").digest(content)))));
        ASN1Set signedAttributes = new DERSet(attributes);
        byte[] message = signedAttributes.getEncoded(ASN1Encoding.DER);
        SM2Signer signature = new SM2Signer();  // SM3 over Z and the message; DER
        signature.init(true, new ParametersWithID(
            new ParametersWithRandom(PrivateKeyFactory.createKey(key), new SecureRandom()), USER_ID));
        signature.update(message, 0, message.length);
        return new SignerInfo(new ASN1Integer(1),
            new IssuerAndSerialNumber(certificate.getIssuer(), certificate.getSerialNumber()),
            SM3, signedAttributes, SM2_SIGN, new DEROctetString(signature.generateSignature()), null);
    }
}
