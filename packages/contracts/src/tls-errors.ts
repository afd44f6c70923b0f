/** What goes wrong with TLS, by the codes of Node and OpenSSL, in a sentence with a next step. */

const UNKNOWN_CA =
  "its certificate is of an authority that is not known here. Is it the right server? Then name the file of its authority with --ca (`rbees tls show` there says which it is)";
const EXPIRED = "its certificate has expired. `rbees tls renew` where it was made makes a new one; or the clock here is wrong";
const NOT_TLS = "it does not speak TLS. Use http:// if that is meant, or give it a certificate (`rbees tls init`)";

const SENTENCES: Readonly<Record<string, string>> = {
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: UNKNOWN_CA,
  UNABLE_TO_GET_ISSUER_CERT: UNKNOWN_CA,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: UNKNOWN_CA,
  SELF_SIGNED_CERT_IN_CHAIN: UNKNOWN_CA,
  DEPTH_ZERO_SELF_SIGNED_CERT: UNKNOWN_CA,
  CERT_SIGNATURE_FAILURE: UNKNOWN_CA,
  INVALID_CA: UNKNOWN_CA,
  CERT_UNTRUSTED: UNKNOWN_CA,
  CERT_HAS_EXPIRED: EXPIRED,
  CERT_NOT_YET_VALID: "its certificate is not valid yet: the clock here or there is wrong. Set it (`date -u` on both must show the same)",
  ERR_TLS_CERT_ALTNAME_INVALID:
    "its certificate is for other names and addresses than this one. Use one of those (`rbees tls show` there lists them), or `rbees tls renew --name NAME` there",
  INVALID_PURPOSE: "its certificate is not one of a server",
  ERR_SSL_WRONG_VERSION_NUMBER: NOT_TLS,
  ERR_SSL_PACKET_LENGTH_TOO_LONG: NOT_TLS,
  EPROTO: NOT_TLS,
};

/** Undefined: it is no matter of TLS. */
export function tlsSentence(code: string): string | undefined {
  return Object.hasOwn(SENTENCES, code) ? SENTENCES[code] : undefined;
}
