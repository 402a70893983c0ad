/**
 * A certificate as WebTransport wants it where no CA vouches for it: ECDSA P-256, self-signed, valid for at
 * most two weeks (W3C WebTransport, "serverCertificateHashes"). Only its hash is ever trusted.
 *
 * Written by hand: it has one fixed shape (RFC 5280, 4.1), Node signs it, and the libraries that could do
 * it bring twenty packages and a polyfill of the global `Reflect`.
 */
import { createHash, generateKeyPairSync, randomBytes, sign } from 'node:crypto';

const DAY_MS = 24 * 60 * 60 * 1000;
/** Clocks of peers may be off by this much. Together with the validity it stays below 14 days. */
const BACKDATED_MS = DAY_MS;
const VALID_MS = 12 * DAY_MS;

/** SEQUENCE { OID 1.2.840.10045.4.3.2 }: ecdsa-with-SHA256 (RFC 5758, 3.2). */
const ECDSA_SHA256 = Buffer.from('300a06082a8648ce3d040302', 'hex');
/** Name: commonName (OID 2.5.4.3) = UTF8String "tunnel". */
const NAME = Buffer.from('3011310f300d06035504030c0674756e6e656c', 'hex');
/** [0] { INTEGER 2 }: version 3. */
const VERSION_3 = Buffer.from('a003020102', 'hex');

const Tag = { INTEGER: 0x02, BIT_STRING: 0x03, UTC_TIME: 0x17, SEQUENCE: 0x30 } as const;

export interface ShortCertificate {
  /** PEM. */
  readonly certificate: string;
  /** PKCS#8 PEM. */
  readonly privateKey: string;
  /** SHA-256 of the certificate's DER: 64 lowercase hex digits. */
  readonly hash: string;
}

/** Makes a new key and a certificate of it. `now`: milliseconds since the epoch. */
export function makeCertificate(now = Date.now()): ShortCertificate {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  const serial = randomBytes(16);
  // Positive, and without a leading zero byte.
  serial[0] = ((serial[0] as number) & 0x7f) | 0x40;
  const content = der(
    Tag.SEQUENCE,
    VERSION_3,
    der(Tag.INTEGER, serial),
    ECDSA_SHA256,
    NAME,
    der(Tag.SEQUENCE, utcTime(now - BACKDATED_MS), utcTime(now + VALID_MS)),
    NAME,
    publicKey.export({ format: 'der', type: 'spki' }),
  );
  // The first byte of a bit string counts the bits its last byte does not use.
  const signature = der(Tag.BIT_STRING, Buffer.of(0), sign('sha256', content, privateKey));
  const bytes = der(Tag.SEQUENCE, content, ECDSA_SHA256, signature);
  const lines = bytes.toString('base64').match(/.{1,64}/g) as string[];
  return {
    certificate: ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n'),
    privateKey: privateKey.export({ format: 'pem', type: 'pkcs8' }) as string,
    hash: createHash('sha256').update(bytes).digest('hex'),
  };
}

/** Tag, length and value (X.690, 8.1). */
function der(tag: number, ...values: readonly Uint8Array[]): Buffer {
  const value = Buffer.concat(values);
  const { length } = value;
  const head =
    length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.of(tag, ...head), value]);
}

/** `YYMMDDHHMMSSZ`: UTCTime, right until 2049. */
function utcTime(time: number): Buffer {
  const digits = new Date(time).toISOString().replace(/\D/g, '').slice(2, 14);
  return der(Tag.UTC_TIME, Buffer.from(`${digits}Z`));
}
