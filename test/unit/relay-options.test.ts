/** What `tunnel relay` calls itself. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { relayUrl } from '../../src/cli/relay-options.js';

/** For 2001:db8::1, and after it for relay.example.org. */
const CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBiDCCAS+gAwIBAgIUYj7EDWE88EdGxp+ouDJXbUuJrs0wCgYIKoZIzj0EAwIw
ADAgFw0yNjExMjgxMjQyMzVaGA8yMTI2MTEwNDEyNDIzNVowADBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABEGNi0p41Y+/WKJt3s/7UR9UXSD9oa30OIC/DKKn2t2v
8GaLvnS5VvZOs2XkRdQ/h0nKs56a/VnWCd/lDYir+S2jgYQwgYEwHQYDVR0OBBYE
FBU5dYVhsKXAJAfmJ36OSMtgy1KxMB8GA1UdIwQYMBaAFBU5dYVhsKXAJAfmJ36O
SMtgy1KxMA8GA1UdEwEB/wQFMAMBAf8wLgYDVR0RBCcwJYcQIAENuAAAAAAAAAAA
AAAAAYIRcmVsYXkuZXhhbXBsZS5vcmcwCgYIKoZIzj0EAwIDRwAwRAIgUGucPfJI
3tl4q4FhviyaHJLzN8XnaExCBq2+VWMhy3cCICBwJ+fz90wHdVTtYVhnD+aBy5Ft
KQH32nsl0umj5bi9
-----END CERTIFICATE-----
`;

describe('the URL of a relay', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tunnel-relay-'));
  const cert = join(folder, 'cert.pem');

  beforeAll(() => writeFileSync(cert, CERTIFICATE));
  afterAll(() => rmSync(folder, { recursive: true }));

  it.each([
    [{}, '192.0.2.1:3340', 'http://192.0.2.1:3340/'],
    [{}, '[2001:db8::1]:80', 'http://[2001:db8::1]/'],
    [{ acme: ['relay.example.org'] }, '[::]:443', 'https://relay.example.org/'],
    // A node refuses a relay with TLS by an IPv6 address.
    [{ cert }, '[::]:8443', 'https://relay.example.org:8443/'],
  ])('with %j, listening on %s, is %s', async (flags, listen, url) => {
    expect(await relayUrl(flags, listen)).toBe(url);
  });
});
