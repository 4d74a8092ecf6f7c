/*
 * A second opinion on qianyan's output: BouncyCastle behind a line protocol.
 *
 * One long-lived process. It reads one command per line on standard input and writes one answer per
 * line on standard output:
 *
 *   command TAB name=base64 TAB name=base64 ...      a name may repeat: then it is a list
 *   ok      TAB name=base64 ...                      the object passed every check of the command
 *   refused TAB base64(reason)                       the object was judged bad, or would not parse
 *   misuse  TAB base64(reason)                       the caller's fault: unknown command, argument missing
 *
 * One file, though a long one: it is compiled, cached and started as one thing.
 * Nothing here was written with knowledge of qianyan's own code; only BouncyCastle's public classes
 * decide. Times travel as decimal seconds since 1970, serials as hexadecimal, booleans as "1" or "0".
 * A check that is not made here (a window in time, an expected nonce) is left to the caller, who gets the value.
 */

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.SecureRandom;
import java.security.Security;
import java.security.cert.CertPath;
import java.security.cert.CertPathValidator;
import java.security.cert.CertStore;
import java.security.cert.CertificateFactory;
import java.security.cert.CollectionCertStoreParameters;
import java.security.cert.PKIXParameters;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.security.spec.ECGenParameterSpec;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collection;
import java.util.Date;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.bouncycastle.asn1.ASN1BitString;
import org.bouncycastle.asn1.ASN1Encodable;
import org.bouncycastle.asn1.ASN1EncodableVector;
import org.bouncycastle.asn1.ASN1Encoding;
import org.bouncycastle.asn1.ASN1GeneralizedTime;
import org.bouncycastle.asn1.ASN1Integer;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.ASN1OctetString;
import org.bouncycastle.asn1.ASN1Primitive;
import org.bouncycastle.asn1.ASN1Sequence;
import org.bouncycastle.asn1.DEROctetString;
import org.bouncycastle.asn1.DERSequence;
import org.bouncycastle.asn1.gm.GMNamedCurves;
import org.bouncycastle.asn1.gm.GMObjectIdentifiers;
import org.bouncycastle.asn1.nist.NISTObjectIdentifiers;
import org.bouncycastle.asn1.ocsp.OCSPObjectIdentifiers;
import org.bouncycastle.asn1.ocsp.RevokedInfo;
import org.bouncycastle.asn1.oiw.OIWObjectIdentifiers;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.asn1.x509.AuthorityKeyIdentifier;
import org.bouncycastle.asn1.x509.BasicConstraints;
import org.bouncycastle.asn1.x509.CRLDistPoint;
import org.bouncycastle.asn1.x509.CRLReason;
import org.bouncycastle.asn1.x509.DistributionPoint;
import org.bouncycastle.asn1.x509.DistributionPointName;
import org.bouncycastle.asn1.x509.ExtendedKeyUsage;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.asn1.x509.Extensions;
import org.bouncycastle.asn1.x509.GeneralName;
import org.bouncycastle.asn1.x509.GeneralNames;
import org.bouncycastle.asn1.x509.IssuingDistributionPoint;
import org.bouncycastle.asn1.x509.KeyPurposeId;
import org.bouncycastle.asn1.x509.KeyUsage;
import org.bouncycastle.asn1.x509.SubjectKeyIdentifier;
import org.bouncycastle.asn1.x509.SubjectPublicKeyInfo;
import org.bouncycastle.asn1.DERNull;
import org.bouncycastle.asn1.x9.X9ECParameters;
import org.bouncycastle.cert.X509CRLEntryHolder;
import org.bouncycastle.cert.X509CRLHolder;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.X509ExtensionUtils;
import org.bouncycastle.cert.X509v2CRLBuilder;
import org.bouncycastle.cert.X509v3CertificateBuilder;
import org.bouncycastle.cert.bc.BcX509ExtensionUtils;
import org.bouncycastle.cert.ocsp.BasicOCSPResp;
import org.bouncycastle.cert.ocsp.BasicOCSPRespBuilder;
import org.bouncycastle.cert.ocsp.CertificateID;
import org.bouncycastle.cert.ocsp.CertificateStatus;
import org.bouncycastle.cert.ocsp.OCSPReqBuilder;
import org.bouncycastle.cert.ocsp.OCSPResp;
import org.bouncycastle.cert.ocsp.OCSPRespBuilder;
import org.bouncycastle.cert.ocsp.RespID;
import org.bouncycastle.cert.ocsp.RevokedStatus;
import org.bouncycastle.cert.ocsp.SingleResp;
import org.bouncycastle.cert.ocsp.UnknownStatus;
import org.bouncycastle.crypto.CipherParameters;
import org.bouncycastle.crypto.engines.SM2Engine;
import org.bouncycastle.crypto.engines.SM4Engine;
import org.bouncycastle.crypto.params.ECDomainParameters;
import org.bouncycastle.crypto.params.ECPrivateKeyParameters;
import org.bouncycastle.crypto.params.ECPublicKeyParameters;
import org.bouncycastle.crypto.params.KeyParameter;
import org.bouncycastle.crypto.params.ParametersWithID;
import org.bouncycastle.crypto.params.ParametersWithRandom;
import org.bouncycastle.crypto.signers.SM2Signer;
import org.bouncycastle.jcajce.PKIXExtendedParameters;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.jce.spec.ECParameterSpec;
import org.bouncycastle.jce.spec.ECPrivateKeySpec;
import org.bouncycastle.jce.spec.ECPublicKeySpec;
import org.bouncycastle.math.ec.ECPoint;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.ContentVerifierProvider;
import org.bouncycastle.operator.DigestCalculator;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.operator.jcajce.JcaContentVerifierProviderBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.pkcs.PKCS10CertificationRequestBuilder;

public final class Judge {
    private static final X9ECParameters CURVE = GMNamedCurves.getByOID(GMObjectIdentifiers.sm2p256v1);
    private static final ECDomainParameters DOMAIN =
        new ECDomainParameters(CURVE.getCurve(), CURVE.getG(), CURVE.getN(), CURVE.getH());
    private static final ECParameterSpec SPEC =
        new ECParameterSpec(CURVE.getCurve(), CURVE.getG(), CURVE.getN(), CURVE.getH());
    private static final byte[] DEFAULT_ID = "1234567812345678".getBytes(StandardCharsets.US_ASCII);
    private static final SecureRandom RANDOM = new SecureRandom();

    /** The object under judgement is bad. */
    private static final class Refused extends Exception {
        private static final long serialVersionUID = 1L;

        Refused(String reason) { super(reason); }
    }

    /** The caller asked a wrong question. */
    private static final class Misuse extends RuntimeException {
        private static final long serialVersionUID = 1L;

        Misuse(String reason) { super(reason); }
    }

    private interface Command { void run(Request in, Answer out) throws Exception; }

    /** Arguments of one command. */
    private static final class Request {
        private final Map<String, List<byte[]>> values = new HashMap<>();

        Request(String[] fields) {
            for (int i = 1; i < fields.length; i++) {
                int eq = fields[i].indexOf('=');
                if (eq < 1) throw new Misuse("argument without a name");
                values.computeIfAbsent(fields[i].substring(0, eq), k -> new ArrayList<>())
                    .add(Base64.getDecoder().decode(fields[i].substring(eq + 1)));
            }
        }

        List<byte[]> all(String name) { return values.getOrDefault(name, List.of()); }

        boolean has(String name) { return values.containsKey(name); }

        byte[] one(String name) {
            List<byte[]> found = all(name);
            if (found.size() != 1) throw new Misuse("wants exactly one " + name);
            return found.get(0);
        }

        byte[] one(String name, byte[] otherwise) { return has(name) ? one(name) : otherwise; }
        String text(String name) { return new String(one(name), StandardCharsets.UTF_8); }
        String text(String name, String otherwise) { return has(name) ? text(name) : otherwise; }
        boolean flag(String name) { return "1".equals(text(name, "0")); }
        Date date(String name) { return new Date(Long.parseLong(text(name)) * 1000L); }
        BigInteger serial(String name) { return new BigInteger(text(name), 16); }
        X509CertificateHolder certificate(String name) throws Exception { return certificateOf(one(name)); }
    }

    /** Results of one command, in order. */
    private static final class Answer {
        private final StringBuilder line = new StringBuilder("ok");

        Answer bytes(String name, byte[] value) {
            line.append('\t').append(name).append('=').append(Base64.getEncoder().encodeToString(value));
            return this;
        }

        Answer text(String name, String value) { return bytes(name, value.getBytes(StandardCharsets.UTF_8)); }
        Answer flag(String name, boolean value) { return text(name, value ? "1" : "0"); }
        Answer date(String name, Date value) { return text(name, Long.toString(value.getTime() / 1000L)); }
    }

    public static void main(String[] args) throws IOException {
        Security.addProvider(new BouncyCastleProvider());
        Map<String, Command> commands = commands();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.US_ASCII);
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            out.println(answer(commands, line));
        }
    }

    private static String answer(Map<String, Command> commands, String line) {
        try {
            String[] fields = line.split("\t", -1);
            Command command = commands.get(fields[0]);
            if (command == null) throw new Misuse("unknown command " + fields[0]);
            Answer out = new Answer();
            command.run(new Request(fields), out);
            return out.line.toString();
        } catch (Misuse e) {
            return complaint("misuse", e);
        } catch (Exception | StackOverflowError e) { // the second: garbage nested past all depth
            return complaint("refused", e);
        }
    }

    private static String complaint(String kind, Throwable e) {
        StringBuilder reason = new StringBuilder();
        for (Throwable t = e; t != null; t = t.getCause() == t ? null : t.getCause()) {
            if (reason.length() > 0) reason.append(": ");
            if (!(t instanceof Refused)) reason.append(t.getClass().getSimpleName()).append(' ');
            reason.append(t.getMessage());
        }
        return kind + '\t' + Base64.getEncoder().encodeToString(reason.toString().getBytes(StandardCharsets.UTF_8));
    }

    private static Map<String, Command> commands() {
        Map<String, Command> c = new LinkedHashMap<>();
        c.put("version", (in, out) -> out.text("version", Security.getProvider("BC").getVersionStr()));
        c.put("sm2-generate", Judge::sm2Generate);
        c.put("sm2-sign", Judge::sm2Sign);
        c.put("sm2-verify", Judge::sm2Verify);
        c.put("sm2-encrypt", Judge::sm2Encrypt);
        c.put("sm2-decrypt", Judge::sm2Decrypt);
        c.put("enveloped-key-open", Judge::envelopedKeyOpen);
        c.put("certificate-read", (in, out) -> describe(in.certificate("certificate"), out));
        c.put("certificate-verify", Judge::certificateVerify);
        c.put("path-validate", Judge::pathValidate);
        c.put("crl-check", Judge::crlCheck);
        c.put("ocsp-status", (in, out) -> out.text("status", Integer.toString(new OCSPResp(in.one("response")).getStatus())));
        c.put("ocsp-check", Judge::ocspCheck);
        c.put("ocsp-request", Judge::ocspRequest);
        c.put("csr-make", Judge::csrMake);
        c.put("csr-verify", Judge::csrVerify);
        c.put("certificate-make", Judge::certificateMake);
        c.put("crl-make", Judge::crlMake);
        c.put("ocsp-make", Judge::ocspMake);
        c.put("cms-verify", Judge::cmsVerify);
        c.put("cms-make", Judge::cmsMake);
        c.put("cms-open", Judge::cmsOpen);
        c.put("cms-envelope", Judge::cmsEnvelope);
        c.put("km-ask", Judge::kmAsk);
        c.put("km-open", Judge::kmOpen);
        return c;
    }

    // ---- keys and raw SM2 -------------------------------------------------------------------------

    /** The point of 65 (or 33) bytes, which BouncyCastle checks to be on the curve. */
    private static ECPoint point(byte[] encoded) throws Refused {
        ECPoint p = CURVE.getCurve().decodePoint(encoded);
        if (p.isInfinity() || !p.isValid()) throw new Refused("not a point of the curve");
        return p;
    }

    private static BigInteger scalar(byte[] bytes) throws Refused {
        BigInteger d = new BigInteger(1, bytes);
        if (bytes.length != 32 || d.signum() == 0 || d.compareTo(CURVE.getN().subtract(BigInteger.ONE)) >= 0)
            throw new Refused("private key out of range");
        return d;
    }

    private static byte[] fixed32(BigInteger value) {
        return org.bouncycastle.util.BigIntegers.asUnsignedByteArray(32, value);
    }

    private static PrivateKey privateKey(byte[] bytes) throws Exception {
        return KeyFactory.getInstance("EC", "BC").generatePrivate(new ECPrivateKeySpec(scalar(bytes), SPEC_NAMED));
    }

    private static PublicKey publicKey(byte[] bytes) throws Exception {
        return KeyFactory.getInstance("EC", "BC").generatePublic(new ECPublicKeySpec(point(bytes), SPEC_NAMED));
    }

    /** Named, so that the SubjectPublicKeyInfo carries the curve's OID and not its numbers. */
    private static final ECParameterSpec SPEC_NAMED = new org.bouncycastle.jce.spec.ECNamedCurveParameterSpec(
        "sm2p256v1", SPEC.getCurve(), SPEC.getG(), SPEC.getN(), SPEC.getH());

    private static byte[] publicOf(byte[] privateBytes) throws Exception {
        return CURVE.getG().multiply(scalar(privateBytes)).normalize().getEncoded(false);
    }

    private static void sm2Generate(Request in, Answer out) throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC", "BC");
        generator.initialize(new ECGenParameterSpec("sm2p256v1"), RANDOM);
        KeyPair pair = generator.generateKeyPair();
        byte[] d = fixed32(((java.security.interfaces.ECPrivateKey) pair.getPrivate()).getS());
        out.bytes("private", d).bytes("public", publicOf(d));
    }

    private static void sm2Sign(Request in, Answer out) throws Exception {
        SM2Signer signer = new SM2Signer();
        CipherParameters key = new ECPrivateKeyParameters(scalar(in.one("private")), DOMAIN);
        signer.init(true, new ParametersWithID(new ParametersWithRandom(key, RANDOM), in.one("id", DEFAULT_ID)));
        byte[] message = in.one("message");
        signer.update(message, 0, message.length);
        out.bytes("signature", signer.generateSignature());
    }

    private static void sm2Verify(Request in, Answer out) throws Exception {
        SM2Signer signer = new SM2Signer();
        CipherParameters key = new ECPublicKeyParameters(point(in.one("public")), DOMAIN);
        signer.init(false, new ParametersWithID(key, in.one("id", DEFAULT_ID)));
        byte[] message = in.one("message");
        signer.update(message, 0, message.length);
        if (!signer.verifySignature(in.one("signature"))) throw new Refused("signature does not verify");
    }

    /** encoding "c1c3c2" (raw, 04 first) or "der" (GM/T 0009 SM2Cipher). */
    private static void sm2Encrypt(Request in, Answer out) throws Exception {
        SM2Engine engine = new SM2Engine(SM2Engine.Mode.C1C3C2);
        engine.init(true, new ParametersWithRandom(new ECPublicKeyParameters(point(in.one("public")), DOMAIN), RANDOM));
        byte[] plain = in.one("plaintext");
        byte[] raw = engine.processBlock(plain, 0, plain.length);
        if (!"der".equals(in.text("encoding", "c1c3c2"))) {
            out.bytes("ciphertext", raw);
            return;
        }
        ASN1EncodableVector v = new ASN1EncodableVector();
        v.add(new ASN1Integer(new BigInteger(1, Arrays.copyOfRange(raw, 1, 33))));
        v.add(new ASN1Integer(new BigInteger(1, Arrays.copyOfRange(raw, 33, 65))));
        v.add(new DEROctetString(Arrays.copyOfRange(raw, 65, 97)));
        v.add(new DEROctetString(Arrays.copyOfRange(raw, 97, raw.length)));
        out.bytes("ciphertext", new DERSequence(v).getEncoded(ASN1Encoding.DER));
    }

    private static void sm2Decrypt(Request in, Answer out) throws Exception {
        byte[] raw = in.one("ciphertext");
        if ("der".equals(in.text("encoding", "c1c3c2"))) raw = rawCipher(ASN1Sequence.getInstance(strict(raw)));
        out.bytes("plaintext", decrypt(scalar(in.one("private")), raw));
    }

    private static byte[] decrypt(BigInteger d, byte[] raw) throws Exception {
        SM2Engine engine = new SM2Engine(SM2Engine.Mode.C1C3C2);
        engine.init(false, new ECPrivateKeyParameters(d, DOMAIN));
        return engine.processBlock(raw, 0, raw.length);
    }

    /** SM2Cipher as C1 C3 C2. */
    private static byte[] rawCipher(ASN1Sequence cipher) throws Exception {
        if (cipher.size() != 4) throw new Refused("SM2Cipher wants four parts");
        byte[] hash = ASN1OctetString.getInstance(cipher.getObjectAt(2)).getOctets();
        if (hash.length != 32) throw new Refused("SM2Cipher.HASH is not 32 bytes");
        ByteArrayOutputStream raw = new ByteArrayOutputStream();
        raw.write(4);
        raw.write(fixed32(ASN1Integer.getInstance(cipher.getObjectAt(0)).getPositiveValue()));
        raw.write(fixed32(ASN1Integer.getInstance(cipher.getObjectAt(1)).getPositiveValue()));
        raw.write(hash);
        raw.write(ASN1OctetString.getInstance(cipher.getObjectAt(3)).getOctets());
        return raw.toByteArray();
    }

    /** Parse, and refuse bytes that are not the DER of what they parse to. */
    private static ASN1Primitive strict(byte[] der) throws Exception {
        ASN1Primitive parsed = ASN1Primitive.fromByteArray(der);
        if (!Arrays.equals(parsed.getEncoded(ASN1Encoding.DER), der)) throw new Refused("not DER");
        return parsed;
    }

    /** GM/T 0009 7.4: SM2Cipher by SM2, the private key by SM4-ECB, then the public key compared. */
    private static void envelopedKeyOpen(Request in, Answer out) throws Exception {
        ASN1Sequence envelope = ASN1Sequence.getInstance(strict(in.one("envelope")));
        if (envelope.size() != 4) throw new Refused("SM2EnvelopedKey wants four parts");
        AlgorithmIdentifier algorithm = AlgorithmIdentifier.getInstance(envelope.getObjectAt(0));
        String oid = algorithm.getAlgorithm().getId();
        if (!oid.equals("1.2.156.10197.1.104") && !oid.equals("1.2.156.10197.1.104.1"))
            throw new Refused("symAlgID " + oid + " is not SM4-ECB");
        byte[] key = decrypt(scalar(in.one("private")), rawCipher(ASN1Sequence.getInstance(envelope.getObjectAt(1))));
        if (key.length != 16) throw new Refused("symmetric key of " + key.length + " bytes");
        byte[] enclosed = ASN1BitString.getInstance(envelope.getObjectAt(2)).getOctets();
        byte[] sealed = ASN1BitString.getInstance(envelope.getObjectAt(3)).getOctets();
        if (sealed.length != 32) throw new Refused("encrypted private key of " + sealed.length + " bytes");
        SM4Engine sm4 = new SM4Engine();
        sm4.init(false, new KeyParameter(key));
        byte[] opened = new byte[32];
        sm4.processBlock(sealed, 0, opened, 0);
        sm4.processBlock(sealed, 16, opened, 16);
        if (!Arrays.equals(publicOf(opened), point(enclosed).getEncoded(false)))
            throw new Refused("the private key does not belong to the enclosed public key");
        out.bytes("private", opened).bytes("public", enclosed).text("algorithm", oid);
    }

    // ---- certificates -----------------------------------------------------------------------------

    private static X509CertificateHolder certificateOf(byte[] der) throws Exception {
        X509CertificateHolder holder = new X509CertificateHolder(der);
        if (!Arrays.equals(holder.toASN1Structure().getEncoded(ASN1Encoding.DER), der)) throw new Refused("certificate is not DER");
        return holder;
    }

    private static byte[] keyBits(X509CertificateHolder holder) {
        return holder.getSubjectPublicKeyInfo().getPublicKeyData().getBytes();
    }

    private static ContentVerifierProvider verifier(X509CertificateHolder signer) throws Exception {
        return new JcaContentVerifierProviderBuilder().setProvider("BC").build(publicKey(keyBits(signer)));
    }

    private static void describe(X509CertificateHolder cert, Answer out) throws Exception {
        out.text("subject", cert.getSubject().toString()).text("issuer", cert.getIssuer().toString());
        out.text("serial", cert.getSerialNumber().toString(16));
        out.date("not_before", cert.getNotBefore()).date("not_after", cert.getNotAfter());
        out.bytes("public", point(keyBits(cert)).getEncoded(false));
        out.bytes("spki_algorithm", cert.getSubjectPublicKeyInfo().getAlgorithm().getEncoded(ASN1Encoding.DER));
        out.bytes("signature_algorithm", cert.getSignatureAlgorithm().getEncoded(ASN1Encoding.DER));
        Extensions extensions = cert.getExtensions();
        if (extensions == null) return;
        for (ASN1ObjectIdentifier oid : extensions.getExtensionOIDs()) out.text("extension", oid.getId());
        for (ASN1ObjectIdentifier oid : extensions.getCriticalExtensionOIDs()) out.text("critical", oid.getId());
        describeUses(extensions, out);
        CRLDistPoint points = CRLDistPoint.fromExtensions(extensions);
        if (points != null)
            for (DistributionPoint p : points.getDistributionPoints()) uris(p.getDistributionPoint(), "crl_uri", out);
    }

    private static void describeUses(Extensions extensions, Answer out) {
        String[] names = {"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment",
            "keyAgreement", "keyCertSign", "cRLSign", "encipherOnly", "decipherOnly"};
        int[] bits = {KeyUsage.digitalSignature, KeyUsage.nonRepudiation, KeyUsage.keyEncipherment,
            KeyUsage.dataEncipherment, KeyUsage.keyAgreement, KeyUsage.keyCertSign, KeyUsage.cRLSign,
            KeyUsage.encipherOnly, KeyUsage.decipherOnly};
        KeyUsage usage = KeyUsage.fromExtensions(extensions);
        for (int i = 0; usage != null && i < bits.length; i++)
            if (usage.hasUsages(bits[i])) out.text("key_usage", names[i]);
        ExtendedKeyUsage extended = ExtendedKeyUsage.fromExtensions(extensions);
        if (extended != null)
            for (KeyPurposeId id : extended.getUsages()) out.text("extended_key_usage", id.getId());
        BasicConstraints constraints = BasicConstraints.fromExtensions(extensions);
        out.flag("is_ca", constraints != null && constraints.isCA());
        if (constraints != null && constraints.getPathLenConstraint() != null)
            out.text("path_length", constraints.getPathLenConstraint().toString());
        SubjectKeyIdentifier ski = SubjectKeyIdentifier.fromExtensions(extensions);
        if (ski != null) out.bytes("subject_key_id", ski.getKeyIdentifier());
        AuthorityKeyIdentifier aki = AuthorityKeyIdentifier.fromExtensions(extensions);
        if (aki != null && aki.getKeyIdentifier() != null) out.bytes("authority_key_id", aki.getKeyIdentifier());
    }

    private static void uris(DistributionPointName name, String field, Answer out) {
        if (name == null || name.getType() != DistributionPointName.FULL_NAME) return;
        for (GeneralName g : GeneralNames.getInstance(name.getName()).getNames())
            if (g.getTagNo() == GeneralName.uniformResourceIdentifier) out.text(field, g.getName().toString());
    }

    /** Signature by the issuer's key, names chained, inner and outer algorithm the same bytes. */
    private static void certificateVerify(Request in, Answer out) throws Exception {
        X509CertificateHolder cert = in.certificate("certificate");
        X509CertificateHolder issuer = in.certificate("issuer");
        if (!cert.getIssuer().equals(issuer.getSubject())) throw new Refused("issuer name differs");
        if (!Arrays.equals(cert.toASN1Structure().getTBSCertificate().getSignature().getEncoded(),
                cert.getSignatureAlgorithm().getEncoded())) throw new Refused("inner and outer algorithm differ");
        if (!cert.isSignatureValid(verifier(issuer))) throw new Refused("certificate signature does not verify");
        describe(cert, out);
    }

    /** anchor; certificate... leaf first; at; crl...; revocation (a flag); deltas (a flag). */
    private static void pathValidate(Request in, Answer out) throws Exception {
        CertificateFactory factory = CertificateFactory.getInstance("X.509", "BC");
        X509Certificate anchor = (X509Certificate) factory.generateCertificate(new ByteArrayInputStream(in.one("anchor")));
        List<X509Certificate> chain = new ArrayList<>();
        for (byte[] der : in.all("certificate"))
            chain.add((X509Certificate) factory.generateCertificate(new ByteArrayInputStream(der)));
        if (chain.isEmpty()) throw new Misuse("no certificate");
        CertPath path = factory.generateCertPath(chain);
        PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(anchor, null)));
        parameters.setDate(in.date("at"));
        parameters.setRevocationEnabled(in.flag("revocation"));
        Collection<Object> store = new ArrayList<>(chain);
        store.add(anchor);
        for (byte[] der : in.all("crl")) store.add(factory.generateCRL(new ByteArrayInputStream(der)));
        parameters.addCertStore(CertStore.getInstance("Collection", new CollectionCertStoreParameters(store), "BC"));
        CertPathValidator.getInstance("PKIX", "BC").validate(path, new PKIXExtendedParameters.Builder(parameters)
            .setUseDeltasEnabled(in.flag("deltas")).build());
        X509Certificate leaf = chain.get(0);
        out.text("subject", leaf.getSubjectX500Principal().getName()).text("serial", leaf.getSerialNumber().toString(16));
    }

    // ---- CRLs -------------------------------------------------------------------------------------

    /** Signature, names, key identifier and form; then, for every asked serial, whether it is listed. */
    private static void crlCheck(Request in, Answer out) throws Exception {
        byte[] der = in.one("crl");
        X509CertificateHolder issuer = in.certificate("issuer");
        X509CRLHolder crl = new X509CRLHolder(der);
        if (!Arrays.equals(crl.toASN1Structure().getEncoded(ASN1Encoding.DER), der)) throw new Refused("CRL is not DER");
        if (!crl.getIssuer().equals(issuer.getSubject())) throw new Refused("issuer name differs");
        if (crl.toASN1Structure().getVersionNumber() != 2) throw new Refused("CRL is not version 2");
        if (!Arrays.equals(crl.toASN1Structure().getTBSCertList().getSignature().getEncoded(),
                crl.toASN1Structure().getSignatureAlgorithm().getEncoded()))
            throw new Refused("inner and outer algorithm differ");
        if (!crl.isSignatureValid(verifier(issuer))) throw new Refused("CRL signature does not verify");
        KeyUsage usage = KeyUsage.fromExtensions(issuer.getExtensions());
        if (usage != null && !usage.hasUsages(KeyUsage.cRLSign)) throw new Refused("issuer may not sign CRLs");
        describeCrl(crl, issuer, out);
        Map<BigInteger, X509CRLEntryHolder> entries = new HashMap<>();
        int count = 0;
        for (Object o : crl.getRevokedCertificates()) {
            X509CRLEntryHolder entry = (X509CRLEntryHolder) o;
            if (entries.put(entry.getSerialNumber(), entry) != null)
                throw new Refused("serial " + entry.getSerialNumber().toString(16) + " listed twice");
            count++;
        }
        out.text("entries", Integer.toString(count));
        for (byte[] asked : in.all("serial")) {
            BigInteger serial = new BigInteger(new String(asked, StandardCharsets.US_ASCII), 16);
            X509CRLEntryHolder entry = entries.get(serial);
            if (entry != null)
                out.text("listed", serial.toString(16) + ' ' + reasonOf(entry) + ' ' + entry.getRevocationDate().getTime() / 1000L);
        }
        if (in.flag("list"))
            for (BigInteger serial : entries.keySet()) out.text("entry", serial.toString(16));
    }

    /** The reason code; -1 where the extension is absent. */
    private static int reasonOf(X509CRLEntryHolder entry) {
        Extension e = entry.getExtension(Extension.reasonCode);
        return e == null ? -1 : CRLReason.getInstance(e.getParsedValue()).getValue().intValue();
    }

    private static void describeCrl(X509CRLHolder crl, X509CertificateHolder issuer, Answer out) throws Exception {
        out.date("this_update", crl.getThisUpdate());
        if (crl.getNextUpdate() != null) out.date("next_update", crl.getNextUpdate());
        Extension number = crl.getExtension(Extension.cRLNumber);
        if (number != null) out.text("number", ASN1Integer.getInstance(number.getParsedValue()).getPositiveValue().toString());
        Extension base = crl.getExtension(Extension.deltaCRLIndicator);
        if (base != null) out.text("base_number", ASN1Integer.getInstance(base.getParsedValue()).getPositiveValue().toString());
        Extensions extensions = crl.getExtensions();
        if (extensions != null) {
            for (ASN1ObjectIdentifier oid : extensions.getExtensionOIDs()) out.text("extension", oid.getId());
            for (ASN1ObjectIdentifier oid : extensions.getCriticalExtensionOIDs()) out.text("critical", oid.getId());
        }
        AuthorityKeyIdentifier aki = extensions == null ? null : AuthorityKeyIdentifier.fromExtensions(extensions);
        SubjectKeyIdentifier ski = SubjectKeyIdentifier.fromExtensions(issuer.getExtensions());
        if (aki != null && ski != null && !Arrays.equals(aki.getKeyIdentifier(), ski.getKeyIdentifier()))
            throw new Refused("authority key identifier differs from the issuer's key identifier");
        Extension idp = crl.getExtension(Extension.issuingDistributionPoint);
        out.flag("idp", idp != null).flag("idp_critical", idp != null && idp.isCritical());
        if (idp == null) return;
        IssuingDistributionPoint scope = IssuingDistributionPoint.getInstance(idp.getParsedValue());
        uris(scope.getDistributionPoint(), "idp_uri", out);
        if (scope.getDistributionPoint() != null)
            out.bytes("idp_name", scope.getDistributionPoint().getEncoded(ASN1Encoding.DER));
        out.flag("only_user", scope.onlyContainsUserCerts()).flag("only_ca", scope.onlyContainsCACerts());
        out.flag("only_attribute", scope.onlyContainsAttributeCerts()).flag("indirect", scope.isIndirectCRL());
    }

    // ---- OCSP -------------------------------------------------------------------------------------

    private static final Map<String, ASN1ObjectIdentifier> DIGESTS = Map.of("sm3", GMObjectIdentifiers.sm3,
        "sha1", OIWObjectIdentifiers.idSHA1, "sha256", NISTObjectIdentifiers.id_sha256);

    private static String digestName(ASN1ObjectIdentifier oid) throws Refused {
        for (Map.Entry<String, ASN1ObjectIdentifier> e : DIGESTS.entrySet()) if (e.getValue().equals(oid)) return e.getKey();
        throw new Refused("CertID digest " + oid.getId() + " is not one of SM3, SHA-1, SHA-256");
    }

    private static byte[] digest(String name, byte[] data) throws Exception {
        String java = name.equals("sm3") ? "SM3" : name.equals("sha1") ? "SHA-1" : "SHA-256";
        return MessageDigest.getInstance(java, "BC").digest(data);
    }

    /** A digest as BouncyCastle's CertID builder wants it. */
    private static DigestCalculator calculator(String name, boolean nullParameters) {
        ASN1ObjectIdentifier oid = DIGESTS.get(name);
        if (oid == null) throw new Misuse("digest is sm3, sha1 or sha256");
        AlgorithmIdentifier algorithm = nullParameters ? new AlgorithmIdentifier(oid, DERNull.INSTANCE) : new AlgorithmIdentifier(oid);
        ByteArrayOutputStream collected = new ByteArrayOutputStream();
        return new DigestCalculator() {
            public AlgorithmIdentifier getAlgorithmIdentifier() { return algorithm; }
            public OutputStream getOutputStream() { return collected; }
            public byte[] getDigest() {
                try {
                    byte[] result = digest(name, collected.toByteArray());
                    collected.reset();
                    return result;
                } catch (Exception e) {
                    throw new IllegalStateException(e);
                }
            }
        };
    }

    /** Whether BouncyCastle, computing both hashes itself, calls this CertID one of this issuer. */
    private static boolean belongs(CertificateID id, X509CertificateHolder issuer) throws Exception {
        String name = digestName(id.getHashAlgOID());
        return Arrays.equals(id.getIssuerNameHash(), digest(name, issuer.getSubject().getEncoded(ASN1Encoding.DER)))
            && Arrays.equals(id.getIssuerKeyHash(), digest(name, keyBits(issuer)));
    }

    /** issuer, response, serial: everything RFC 6960 3.2 asks a client to check, save the clock and the nonce. */
    private static void ocspCheck(Request in, Answer out) throws Exception {
        X509CertificateHolder issuer = in.certificate("issuer");
        byte[] der = in.one("response");
        strict(der);
        OCSPResp response = new OCSPResp(der);
        if (response.getStatus() != OCSPResp.SUCCESSFUL) throw new Refused("response status " + response.getStatus());
        BasicOCSPResp basic = (BasicOCSPResp) response.getResponseObject();
        if (basic == null) throw new Refused("not a BasicOCSPResponse");
        strict(basic.getEncoded());
        X509CertificateHolder responder = responderOf(basic, issuer, out);
        if (!basic.isSignatureValid(verifier(responder))) throw new Refused("OCSP signature does not verify");
        BigInteger serial = in.serial("serial");
        for (SingleResp single : basic.getResponses()) {
            if (!single.getCertID().getSerialNumber().equals(serial)) continue;
            if (!belongs(single.getCertID(), issuer)) throw new Refused("CertID is not of this issuer");
            out.text("responses", Integer.toString(basic.getResponses().length));
            out.date("produced_at", basic.getProducedAt());
            Extension nonce = basic.getExtension(OCSPObjectIdentifiers.id_pkix_ocsp_nonce);
            if (nonce != null) out.bytes("nonce", ASN1OctetString.getInstance(nonce.getParsedValue()).getOctets());
            describeSingle(single, out);
            return;
        }
        throw new Refused("no response for serial " + serial.toString(16));
    }

    private static void describeSingle(SingleResp single, Answer out) throws Exception {
        out.text("digest", digestName(single.getCertID().getHashAlgOID()));
        out.bytes("cert_id", single.getCertID().toASN1Primitive().getEncoded(ASN1Encoding.DER));
        out.date("this_update", single.getThisUpdate());
        if (single.getNextUpdate() != null) out.date("next_update", single.getNextUpdate());
        for (Object oid : single.getExtensionOIDs()) out.text("single_extension", ((ASN1ObjectIdentifier) oid).getId());
        CertificateStatus status = single.getCertStatus();
        if (status == CertificateStatus.GOOD) {
            out.text("status", "good");
        } else if (status instanceof RevokedStatus) {
            RevokedStatus revoked = (RevokedStatus) status;
            out.text("status", "revoked").date("revoked_at", revoked.getRevocationTime());
            out.text("reason", Integer.toString(revoked.hasRevocationReason() ? revoked.getRevocationReason() : -1));
        } else if (status instanceof UnknownStatus) {
            out.text("status", "unknown");
        } else {
            throw new Refused("unknown kind of status");
        }
    }

    /** The delegated responder inside the response, proved by the issuer; or the issuer itself. */
    private static X509CertificateHolder responderOf(BasicOCSPResp basic, X509CertificateHolder issuer, Answer out) throws Exception {
        RespID id = basic.getResponderId();
        org.bouncycastle.asn1.ocsp.ResponderID choice = id.toASN1Primitive();
        out.text("responder_id", choice.getName() != null ? "name" : "key");
        for (X509CertificateHolder cert : basic.getCerts()) {
            if (!identifies(choice, cert)) continue;
            if (Arrays.equals(cert.getEncoded(), issuer.getEncoded())) break;
            if (!cert.getIssuer().equals(issuer.getSubject())) throw new Refused("responder was not issued by this authority");
            if (!cert.isSignatureValid(verifier(issuer))) throw new Refused("responder certificate does not verify");
            ExtendedKeyUsage uses = ExtendedKeyUsage.fromExtensions(cert.getExtensions());
            if (uses == null || !uses.hasKeyPurposeId(KeyPurposeId.id_kp_OCSPSigning))
                throw new Refused("responder certificate without OCSPSigning");
            KeyUsage usage = KeyUsage.fromExtensions(cert.getExtensions());
            if (usage != null && !usage.hasUsages(KeyUsage.digitalSignature))
                throw new Refused("responder certificate without digitalSignature");
            if (!cert.isValidOn(basic.getProducedAt())) throw new Refused("responder certificate not valid at producedAt");
            out.text("responder", cert.getSubject().toString()).date("responder_not_after", cert.getNotAfter());
            out.flag("no_check", cert.getExtension(OCSPObjectIdentifiers.id_pkix_ocsp_nocheck) != null);
            return cert;
        }
        if (!identifies(choice, issuer)) throw new Refused("no certificate for the responder named");
        out.text("responder", issuer.getSubject().toString()).date("responder_not_after", issuer.getNotAfter());
        return issuer;
    }

    private static boolean identifies(org.bouncycastle.asn1.ocsp.ResponderID id, X509CertificateHolder cert) throws Exception {
        if (id.getName() != null) return id.getName().equals(cert.getSubject());
        return Arrays.equals(id.getKeyHash(), digest("sha1", keyBits(cert)));
    }

    /** issuer, serial..., digest (sm3), nonce; null_parameters: NULL in the hash AlgorithmIdentifier, as OpenSSL writes. */
    private static void ocspRequest(Request in, Answer out) throws Exception {
        X509CertificateHolder issuer = in.certificate("issuer");
        OCSPReqBuilder builder = new OCSPReqBuilder();
        for (byte[] serial : in.all("serial"))
            builder.addRequest(new CertificateID(calculator(in.text("digest", "sm3"), in.flag("null_parameters")), issuer,
                new BigInteger(new String(serial, StandardCharsets.US_ASCII), 16)));
        if (in.has("nonce")) builder.setRequestExtensions(nonceExtension(in.one("nonce")));
        out.bytes("request", builder.build().getEncoded());
    }

    private static Extensions nonceExtension(byte[] nonce) throws IOException {
        return new Extensions(new Extension(OCSPObjectIdentifiers.id_pkix_ocsp_nonce, false, new DEROctetString(nonce).getEncoded()));
    }

    // ---- foreign objects for qianyan to judge ------------------------------------------------------

    private static ContentSigner signer(byte[] privateBytes) throws Exception {
        return new JcaContentSignerBuilder("SM3withSM2").setProvider("BC").build(privateKey(privateBytes));
    }

    private static SubjectPublicKeyInfo spki(byte[] publicBytes) throws Exception {
        return SubjectPublicKeyInfo.getInstance(publicKey(publicBytes).getEncoded());
    }

    private static void csrMake(Request in, Answer out) throws Exception {
        byte[] d = in.has("private") ? in.one("private") : null;
        if (d == null) {
            Answer pair = new Answer();
            sm2Generate(in, pair);
            d = Base64.getDecoder().decode(pair.line.toString().split("\t")[1].substring("private=".length()));
        }
        byte[] q = publicOf(d);
        PKCS10CertificationRequest csr =
            new PKCS10CertificationRequestBuilder(new X500Name(in.text("subject")), spki(q)).build(signer(d));
        out.bytes("private", d).bytes("public", q).bytes("csr", csr.getEncoded());
    }

    private static void csrVerify(Request in, Answer out) throws Exception {
        strict(in.one("csr"));
        PKCS10CertificationRequest csr = new PKCS10CertificationRequest(in.one("csr"));
        byte[] q = csr.getSubjectPublicKeyInfo().getPublicKeyData().getBytes();
        if (!csr.isSignatureValid(new JcaContentVerifierProviderBuilder().setProvider("BC").build(publicKey(q))))
            throw new Refused("CSR signature does not verify");
        out.text("subject", csr.getSubject().toString()).bytes("public", q);
    }

    /**
     * kind: root, authority, sign, encrypt, ocsp. subject, serial, not_before, not_after, public; issuer (certificate)
     * unless root; private: the issuer's key (for a root its own). crl_uri: optional distribution point.
     */
    private static void certificateMake(Request in, Answer out) throws Exception {
        String kind = in.text("kind");
        SubjectPublicKeyInfo key = spki(in.one("public"));
        X500Name subject = new X500Name(in.text("subject"));
        X509CertificateHolder issuer = kind.equals("root") ? null : in.certificate("issuer");
        X509v3CertificateBuilder builder = new X509v3CertificateBuilder(issuer == null ? subject : issuer.getSubject(),
            in.serial("serial"), in.date("not_before"), in.date("not_after"), subject, key);
        X509ExtensionUtils utils = new BcX509ExtensionUtils();
        boolean ca = kind.equals("root") || kind.equals("authority");
        builder.addExtension(Extension.basicConstraints, true, new BasicConstraints(ca));
        builder.addExtension(Extension.keyUsage, true, new KeyUsage(usageFor(kind)));
        builder.addExtension(Extension.subjectKeyIdentifier, false, utils.createSubjectKeyIdentifier(key));
        builder.addExtension(Extension.authorityKeyIdentifier, false,
            utils.createAuthorityKeyIdentifier(issuer == null ? key : issuer.getSubjectPublicKeyInfo()));
        if (kind.equals("ocsp")) {
            builder.addExtension(Extension.extendedKeyUsage, true, new ExtendedKeyUsage(KeyPurposeId.id_kp_OCSPSigning));
            builder.addExtension(OCSPObjectIdentifiers.id_pkix_ocsp_nocheck, false, DERNull.INSTANCE);
        }
        if (in.has("crl_uri"))
            builder.addExtension(Extension.cRLDistributionPoints, false, new CRLDistPoint(
                new DistributionPoint[] {new DistributionPoint(fullName(in.text("crl_uri")), null, null)}));
        out.bytes("certificate", builder.build(signer(in.one("private"))).getEncoded());
    }

    private static int usageFor(String kind) {
        switch (kind) {
            case "root":
            case "authority": return KeyUsage.keyCertSign | KeyUsage.cRLSign;
            case "sign": return KeyUsage.digitalSignature | KeyUsage.nonRepudiation;
            case "encrypt": return KeyUsage.keyEncipherment | KeyUsage.dataEncipherment | KeyUsage.keyAgreement;
            case "ocsp": return KeyUsage.digitalSignature;
            default: throw new Misuse("kind " + kind);
        }
    }

    private static DistributionPointName fullName(String uri) {
        return new DistributionPointName(new GeneralNames(new GeneralName(GeneralName.uniformResourceIdentifier, uri)));
    }

    /** issuer, private, number, this_update, next_update, entry... ("serial reason seconds"), idp_uri. */
    private static void crlMake(Request in, Answer out) throws Exception {
        X509CertificateHolder issuer = in.certificate("issuer");
        X509v2CRLBuilder builder = new X509v2CRLBuilder(issuer.getSubject(), in.date("this_update"));
        builder.setNextUpdate(in.date("next_update"));
        for (byte[] line : in.all("entry")) {
            String[] parts = new String(line, StandardCharsets.US_ASCII).split(" ");
            builder.addCRLEntry(new BigInteger(parts[0], 16), new Date(Long.parseLong(parts[2]) * 1000L), Integer.parseInt(parts[1]));
        }
        builder.addExtension(Extension.cRLNumber, false, new ASN1Integer(new BigInteger(in.text("number"))));
        builder.addExtension(Extension.authorityKeyIdentifier, false,
            new BcX509ExtensionUtils().createAuthorityKeyIdentifier(issuer.getSubjectPublicKeyInfo()));
        if (in.has("idp_uri"))
            builder.addExtension(Extension.issuingDistributionPoint, true,
                new IssuingDistributionPoint(fullName(in.text("idp_uri")), false, false, null, false, false));
        out.bytes("crl", builder.build(signer(in.one("private"))).getEncoded());
    }

    /**
     * issuer, serial, status (good, revoked, unknown), reason, revoked_at, this_update, next_update, produced_at,
     * digest, nonce; responder and private: the certificate that answers (embedded unless it is the issuer) and its key;
     * by_key: ResponderID by key hash.
     */
    private static void ocspMake(Request in, Answer out) throws Exception {
        X509CertificateHolder issuer = in.certificate("issuer");
        X509CertificateHolder responder = in.certificate("responder");
        RespID id = in.flag("by_key")
            ? new RespID(responder.getSubjectPublicKeyInfo(), calculator("sha1", true))
            : new RespID(responder.getSubject());
        BasicOCSPRespBuilder builder = new BasicOCSPRespBuilder(id);
        CertificateID certId = new CertificateID(calculator(in.text("digest", "sm3"), true), issuer, in.serial("serial"));
        String wanted = in.text("status");
        CertificateStatus status;
        if (wanted.equals("good")) status = CertificateStatus.GOOD;
        else if (wanted.equals("unknown")) status = new UnknownStatus();
        else if (in.has("reason")) status = new RevokedStatus(in.date("revoked_at"), Integer.parseInt(in.text("reason")));
        else status = new RevokedStatus(new RevokedInfo(new ASN1GeneralizedTime(in.date("revoked_at")), null));
        builder.addResponse(certId, status, in.date("this_update"), in.date("next_update"), null);
        if (in.has("nonce")) builder.setResponseExtensions(nonceExtension(in.one("nonce")));
        boolean direct = Arrays.equals(responder.getEncoded(), issuer.getEncoded());
        X509CertificateHolder[] chain = direct ? new X509CertificateHolder[0] : new X509CertificateHolder[] {responder};
        BasicOCSPResp basic = builder.build(signer(in.one("private")), chain, in.date("produced_at"));
        out.bytes("response", new OCSPRespBuilder().build(OCSPRespBuilder.SUCCESSFUL, basic).getEncoded());
    }

    // ---- GM/T 0010: PKCS #7's structures under GM's identifiers ------------------------------------

    private static final String GM_CMS = "1.2.156.10197.6.1.4.2.";
    private static final ASN1ObjectIdentifier GM_DATA = new ASN1ObjectIdentifier(GM_CMS + "1");
    private static final ASN1ObjectIdentifier SM3 = new ASN1ObjectIdentifier("1.2.156.10197.1.401");
    private static final ASN1ObjectIdentifier SM4_CBC = new ASN1ObjectIdentifier("1.2.156.10197.1.104.2");

    private static AlgorithmIdentifier algorithm(String oid, boolean nullParameters) {
        ASN1ObjectIdentifier id = new ASN1ObjectIdentifier(oid);
        return nullParameters ? new AlgorithmIdentifier(id, DERNull.INSTANCE) : new AlgorithmIdentifier(id);
    }

    private static boolean sm2Verifies(X509CertificateHolder holder, byte[] message, byte[] signature) throws Exception {
        SM2Signer signer = new SM2Signer();
        signer.init(false, new ParametersWithID(new ECPublicKeyParameters(point(keyBits(holder)), DOMAIN), DEFAULT_ID));
        signer.update(message, 0, message.length);
        return signer.verifySignature(signature);
    }

    /** message; content where it is detached; certificate... beside those inside. Every signer must verify. */
    private static void cmsVerify(Request in, Answer out) throws Exception {
        org.bouncycastle.asn1.pkcs.ContentInfo outer = org.bouncycastle.asn1.pkcs.ContentInfo.getInstance(strict(in.one("message")));
        if (!outer.getContentType().getId().equals(GM_CMS + "2")) throw new Refused("not signedData");
        org.bouncycastle.asn1.pkcs.SignedData signed = org.bouncycastle.asn1.pkcs.SignedData.getInstance(outer.getContent());
        if (signed.getVersion().intValueExact() != 1) throw new Refused("version " + signed.getVersion());
        org.bouncycastle.asn1.pkcs.ContentInfo inner = signed.getContentInfo();
        out.text("content_type", inner.getContentType().getId());
        byte[] content = inner.getContent() == null ? in.one("content") : ASN1OctetString.getInstance(inner.getContent()).getOctets();
        if (inner.getContent() != null) out.bytes("content", content);
        List<X509CertificateHolder> known = new ArrayList<>();
        for (byte[] der : in.all("certificate")) known.add(certificateOf(der));
        if (signed.getCertificates() != null)
            for (ASN1Encodable certificate : signed.getCertificates()) {
                byte[] der = certificate.toASN1Primitive().getEncoded(ASN1Encoding.DER);
                out.bytes("certificate", der);
                known.add(certificateOf(der));
            }
        if (signed.getCRLs() != null)
            for (ASN1Encodable crl : signed.getCRLs()) out.bytes("crl", crl.toASN1Primitive().getEncoded(ASN1Encoding.DER));
        if (signed.getSignerInfos().size() == 0) throw new Refused("nobody signed");
        for (ASN1Encodable each : signed.getSignerInfos()) cmsSigner(org.bouncycastle.asn1.pkcs.SignerInfo.getInstance(each), content, known, out);
    }

    private static void cmsSigner(org.bouncycastle.asn1.pkcs.SignerInfo info, byte[] content,
            List<X509CertificateHolder> known, Answer out) throws Exception {
        byte[] message = content;
        if (info.getAuthenticatedAttributes() != null) {
            org.bouncycastle.asn1.cms.AttributeTable table = new org.bouncycastle.asn1.cms.AttributeTable(info.getAuthenticatedAttributes());
            byte[] digest = ASN1OctetString.getInstance(
                table.get(org.bouncycastle.asn1.cms.CMSAttributes.messageDigest).getAttributeValues()[0]).getOctets();
            if (!Arrays.equals(digest, digest("sm3", content))) throw new Refused("message digest differs");
            message = info.getAuthenticatedAttributes().getEncoded(ASN1Encoding.DER);
        }
        out.text("digest", info.getDigestAlgorithm().getAlgorithm().getId());
        out.text("signature", info.getDigestEncryptionAlgorithm().getAlgorithm().getId());
        for (X509CertificateHolder holder : known) {
            if (!holder.getIssuer().equals(info.getIssuerAndSerialNumber().getName())) continue;
            if (!holder.getSerialNumber().equals(info.getIssuerAndSerialNumber().getCertificateSerialNumber().getValue())) continue;
            if (sm2Verifies(holder, message, info.getEncryptedDigest().getOctets())) return;
            throw new Refused("signature does not verify");
        }
        throw new Refused("no certificate for the signer");
    }

    /** content, and for each signer private and certificate; detached, attributes, null_parameters; signature: its OID. */
    private static void cmsMake(Request in, Answer out) throws Exception {
        byte[] content = in.one("content");
        boolean nulls = in.flag("null_parameters");
        AlgorithmIdentifier sm3 = algorithm(SM3.getId(), nulls);
        ASN1EncodableVector infos = new ASN1EncodableVector();
        ASN1EncodableVector certificates = new ASN1EncodableVector();
        for (int i = 0; i < in.all("private").size(); i++) {
            X509CertificateHolder holder = certificateOf(in.all("certificate").get(i));
            certificates.add(holder.toASN1Structure());
            org.bouncycastle.asn1.DERSet attributes = in.flag("attributes") ? cmsAttributes(content) : null;
            byte[] message = attributes == null ? content : attributes.getEncoded(ASN1Encoding.DER);
            SM2Signer signer = new SM2Signer();
            CipherParameters key = new ECPrivateKeyParameters(scalar(in.all("private").get(i)), DOMAIN);
            signer.init(true, new ParametersWithID(new ParametersWithRandom(key, RANDOM), DEFAULT_ID));
            signer.update(message, 0, message.length);
            infos.add(new org.bouncycastle.asn1.pkcs.SignerInfo(new ASN1Integer(1), issuerAndSerial(holder), sm3, attributes,
                algorithm(in.text("signature", "1.2.156.10197.1.301.1"), nulls), new DEROctetString(signer.generateSignature()), null));
        }
        org.bouncycastle.asn1.pkcs.ContentInfo inner =
            new org.bouncycastle.asn1.pkcs.ContentInfo(GM_DATA, in.flag("detached") ? null : new DEROctetString(content));
        org.bouncycastle.asn1.pkcs.SignedData signed = new org.bouncycastle.asn1.pkcs.SignedData(new ASN1Integer(1),
            new org.bouncycastle.asn1.DERSet(sm3), inner, new org.bouncycastle.asn1.DERSet(certificates), null,
            new org.bouncycastle.asn1.DERSet(infos));
        out.bytes("message", new org.bouncycastle.asn1.pkcs.ContentInfo(
            new ASN1ObjectIdentifier(GM_CMS + "2"), signed).getEncoded(ASN1Encoding.DER));
    }

    private static org.bouncycastle.asn1.pkcs.IssuerAndSerialNumber issuerAndSerial(X509CertificateHolder holder) {
        return new org.bouncycastle.asn1.pkcs.IssuerAndSerialNumber(holder.getIssuer(), holder.getSerialNumber());
    }

    private static org.bouncycastle.asn1.DERSet cmsAttributes(byte[] content) throws Exception {
        ASN1EncodableVector v = new ASN1EncodableVector();
        v.add(cmsAttribute(org.bouncycastle.asn1.cms.CMSAttributes.contentType, GM_DATA));
        v.add(cmsAttribute(org.bouncycastle.asn1.cms.CMSAttributes.signingTime, new org.bouncycastle.asn1.cms.Time(new Date())));
        v.add(cmsAttribute(org.bouncycastle.asn1.cms.CMSAttributes.messageDigest, new DEROctetString(digest("sm3", content))));
        return new org.bouncycastle.asn1.DERSet(v);
    }

    private static org.bouncycastle.asn1.cms.Attribute cmsAttribute(ASN1ObjectIdentifier type, ASN1Encodable value) {
        return new org.bouncycastle.asn1.cms.Attribute(type, new org.bouncycastle.asn1.DERSet(value));
    }

    private static byte[] sm4Cbc(boolean encrypt, byte[] key, byte[] iv, byte[] data) throws Exception {
        javax.crypto.Cipher cipher = javax.crypto.Cipher.getInstance("SM4/CBC/PKCS7Padding", "BC");
        cipher.init(encrypt ? javax.crypto.Cipher.ENCRYPT_MODE : javax.crypto.Cipher.DECRYPT_MODE,
            new javax.crypto.spec.SecretKeySpec(key, "SM4"), new javax.crypto.spec.IvParameterSpec(iv));
        return cipher.doFinal(data);
    }

    /** message, certificate and private of one recipient: the content. */
    private static void cmsOpen(Request in, Answer out) throws Exception {
        org.bouncycastle.asn1.cms.ContentInfo outer = org.bouncycastle.asn1.cms.ContentInfo.getInstance(strict(in.one("message")));
        if (!outer.getContentType().getId().equals(GM_CMS + "3")) throw new Refused("not envelopedData");
        org.bouncycastle.asn1.cms.EnvelopedData enveloped = org.bouncycastle.asn1.cms.EnvelopedData.getInstance(outer.getContent());
        if (enveloped.getVersion().intValueExact() != 1) throw new Refused("version " + enveloped.getVersion());
        X509CertificateHolder holder = in.certificate("certificate");
        for (ASN1Encodable each : enveloped.getRecipientInfos()) {
            org.bouncycastle.asn1.cms.KeyTransRecipientInfo info = org.bouncycastle.asn1.cms.KeyTransRecipientInfo.getInstance(
                org.bouncycastle.asn1.cms.RecipientInfo.getInstance(each).getInfo());
            org.bouncycastle.asn1.cms.IssuerAndSerialNumber id =
                org.bouncycastle.asn1.cms.IssuerAndSerialNumber.getInstance(info.getRecipientIdentifier().getId());
            if (!id.getName().equals(holder.getIssuer()) || !id.getSerialNumber().getValue().equals(holder.getSerialNumber())) continue;
            byte[] key = decrypt(scalar(in.one("private")), rawCipher(ASN1Sequence.getInstance(strict(info.getEncryptedKey().getOctets()))));
            org.bouncycastle.asn1.cms.EncryptedContentInfo sealed = enveloped.getEncryptedContentInfo();
            AlgorithmIdentifier cipher = sealed.getContentEncryptionAlgorithm();
            if (!cipher.getAlgorithm().equals(SM4_CBC)) throw new Refused("content under " + cipher.getAlgorithm());
            byte[] iv = ASN1OctetString.getInstance(cipher.getParameters()).getOctets();
            out.bytes("content", sm4Cbc(false, key, iv, sealed.getEncryptedContent().getOctets()));
            out.text("key_encryption", info.getKeyEncryptionAlgorithm().getAlgorithm().getId());
            return;
        }
        throw new Refused("not for this recipient");
    }

    /** content, certificate...; cipher: the OID that names SM4-CBC. */
    private static void cmsEnvelope(Request in, Answer out) throws Exception {
        byte[] key = new byte[16];
        byte[] iv = new byte[16];
        RANDOM.nextBytes(key);
        RANDOM.nextBytes(iv);
        ASN1EncodableVector infos = new ASN1EncodableVector();
        for (byte[] der : in.all("certificate")) {
            X509CertificateHolder holder = certificateOf(der);
            Request asked = new Request(new String[] {"", "encoding=ZGVy",
                "public=" + Base64.getEncoder().encodeToString(keyBits(holder)),
                "plaintext=" + Base64.getEncoder().encodeToString(key)});
            Answer sealed = new Answer();
            sm2Encrypt(asked, sealed);
            byte[] cipher = Base64.getDecoder().decode(sealed.line.toString().split("\t")[1].substring("ciphertext=".length()));
            infos.add(new DERSequence(new ASN1Encodable[] {new ASN1Integer(1), issuerAndSerial(holder),
                algorithm("1.2.156.10197.1.301.3", true), new DEROctetString(cipher)}));
        }
        AlgorithmIdentifier cipher = new AlgorithmIdentifier(
            new ASN1ObjectIdentifier(in.text("cipher", SM4_CBC.getId())), new DEROctetString(iv));
        org.bouncycastle.asn1.cms.EncryptedContentInfo sealed = new org.bouncycastle.asn1.cms.EncryptedContentInfo(
            GM_DATA, cipher, new DEROctetString(sm4Cbc(true, key, iv, in.one("content"))));
        DERSequence enveloped = new DERSequence(new ASN1Encodable[] {new ASN1Integer(1), new org.bouncycastle.asn1.DERSet(infos), sealed});
        out.bytes("message", new org.bouncycastle.asn1.cms.ContentInfo(
            new ASN1ObjectIdentifier(GM_CMS + "3"), enveloped).getEncoded(ASN1Encoding.DER));
    }

    // ---- CA-KM messages (GM/T 0014) ---------------------------------------------------------------

    private static final String SM2_WITH_SM3 = "1.2.156.10197.1.501";

    private static AlgorithmIdentifier bare(String oid) {
        return new AlgorithmIdentifier(new ASN1ObjectIdentifier(oid));
    }

    private static DERSequence sequence(ASN1Encodable... parts) {
        return new DERSequence(parts);
    }

    private static byte[] sm3(byte[] data) throws Exception {
        return MessageDigest.getInstance("SM3", "BC").digest(data);
    }

    private static boolean signed(byte[] publicKey, byte[] message, byte[] signature) throws Exception {
        SM2Signer signer = new SM2Signer();
        CipherParameters key = new ECPublicKeyParameters(point(publicKey), DOMAIN);
        signer.init(false, new ParametersWithID(key, DEFAULT_ID));
        signer.update(message, 0, message.length);
        return signer.verifySignature(signature);
    }

    /** private and certificate of the authority, task, number (hexadecimal), recipient; kind: apply, restore, revoke. */
    private static void kmAsk(Request in, Answer out) throws Exception {
        X509CertificateHolder authority = in.certificate("certificate");
        ASN1Integer number = new ASN1Integer(new BigInteger(in.text("number", ""), 16));
        AlgorithmIdentifier key = new AlgorithmIdentifier(
            new ASN1ObjectIdentifier("1.2.840.10045.2.1"), new ASN1ObjectIdentifier("1.2.156.10197.1.301"));
        ASN1Encodable user = new org.bouncycastle.asn1.x509.SubjectPublicKeyInfo(key, in.one("recipient"));
        AlgorithmIdentifier asymmetric = bare("1.2.156.10197.1.301.3");
        AlgorithmIdentifier symmetric = bare("1.2.156.10197.1.104.1");
        AlgorithmIdentifier digest = bare("1.2.156.10197.1.401");
        Date now = new Date();
        String kind = in.text("kind", "apply");
        ASN1Encodable request;
        if (kind.equals("apply"))
            request = new org.bouncycastle.asn1.DERTaggedObject(false, 0, sequence(key, new ASN1Integer(256), asymmetric,
                symmetric, digest, sequence(number, user, new org.bouncycastle.asn1.DERGeneralizedTime(now),
                new org.bouncycastle.asn1.DERGeneralizedTime(new Date(now.getTime() + 86_400_000L * 365)))));
        else if (kind.equals("restore"))
            request = new org.bouncycastle.asn1.DERTaggedObject(
                false, 1, sequence(asymmetric, symmetric, digest, number, user));
        else
            request = new org.bouncycastle.asn1.DERTaggedObject(false, 2, sequence(number));
        ASN1Encodable name = sequence(digest,
            new org.bouncycastle.asn1.x509.GeneralName(authority.getSubject()),
            new DEROctetString(sm3(keyBits(authority))), new ASN1Integer(authority.getSerialNumber()));
        DERSequence body = sequence(new ASN1Integer(1), name, sequence(request),
            new org.bouncycastle.asn1.DERGeneralizedTime(now), new ASN1Integer(new BigInteger(in.text("task", "1"))));
        SM2Signer signer = new SM2Signer();
        CipherParameters secret = new ECPrivateKeyParameters(scalar(in.one("private")), DOMAIN);
        signer.init(true, new ParametersWithID(new ParametersWithRandom(secret, RANDOM), DEFAULT_ID));
        byte[] encoded = body.getEncoded(ASN1Encoding.DER);
        signer.update(encoded, 0, encoded.length);
        out.bytes("message", sequence(body, bare(SM2_WITH_SM3), new DEROctetString(signer.generateSignature()))
            .getEncoded(ASN1Encoding.DER));
    }

    /** message, certificate of the centre, private key of the user: the one key that was returned, all signatures checked. */
    private static void kmOpen(Request in, Answer out) throws Exception {
        ASN1Sequence whole = ASN1Sequence.getInstance(strict(in.one("message")));
        byte[] centre = keyBits(in.certificate("certificate"));
        byte[] body = whole.getObjectAt(0).toASN1Primitive().getEncoded(ASN1Encoding.DER);
        if (!AlgorithmIdentifier.getInstance(whole.getObjectAt(1)).getAlgorithm().getId().equals(SM2_WITH_SM3))
            throw new Refused("not signed by SM2 with SM3");
        if (!signed(centre, body, ASN1OctetString.getInstance(whole.getObjectAt(2)).getOctets()))
            throw new Refused("the centre's signature does not verify");
        ASN1Sequence parts = ASN1Sequence.getInstance(whole.getObjectAt(0));
        ASN1Sequence answers = ASN1Sequence.getInstance(parts.getObjectAt(2));
        out.text("task", ASN1Integer.getInstance(parts.getObjectAt(4)).getValue().toString());
        org.bouncycastle.asn1.ASN1TaggedObject first =
            org.bouncycastle.asn1.ASN1TaggedObject.getInstance(answers.getObjectAt(0));
        ASN1Sequence answer = ASN1Sequence.getInstance(first, false);
        out.text("kind", Integer.toString(first.getTagNo()));
        out.text("number", ASN1Integer.getInstance(answer.getObjectAt(0)).getValue().toString(16));
        if (first.getTagNo() > 1) return;
        byte[] enclosed = org.bouncycastle.asn1.x509.SubjectPublicKeyInfo.getInstance(answer.getObjectAt(1))
            .getPublicKeyData().getBytes();
        ASN1Sequence sealed = ASN1Sequence.getInstance(answer.getObjectAt(2));
        ASN1Sequence recipient = ASN1Sequence.getInstance(
            org.bouncycastle.asn1.ASN1Set.getInstance(sealed.getObjectAt(1)).getObjectAt(0));
        byte[] key = decrypt(scalar(in.one("private")),
            rawCipher(ASN1Sequence.getInstance(strict(ASN1OctetString.getInstance(recipient.getObjectAt(3)).getOctets()))));
        org.bouncycastle.asn1.cms.EncryptedContentInfo content =
            org.bouncycastle.asn1.cms.EncryptedContentInfo.getInstance(sealed.getObjectAt(3));
        byte[] cipher = content.getEncryptedContent().getOctets();
        SM4Engine sm4 = new SM4Engine();
        sm4.init(false, new KeyParameter(key));
        byte[] opened = new byte[32];
        if (cipher.length != 32) throw new Refused("a private key of " + cipher.length + " bytes");
        sm4.processBlock(cipher, 0, opened, 0);
        sm4.processBlock(cipher, 16, opened, 16);
        ASN1Sequence signer = ASN1Sequence.getInstance(org.bouncycastle.asn1.ASN1Set.getInstance(
            sealed.getObjectAt(sealed.size() - 1)).getObjectAt(0));
        if (!signed(centre, opened, ASN1OctetString.getInstance(signer.getObjectAt(signer.size() - 1)).getOctets()))
            throw new Refused("the signature over the key does not verify");
        if (!Arrays.equals(publicOf(opened), point(enclosed).getEncoded(false)))
            throw new Refused("the private key does not belong to the returned public key");
        out.bytes("private", opened).bytes("public", enclosed);
    }
}
