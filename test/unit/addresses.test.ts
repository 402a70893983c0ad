import { describe, expect, it } from 'vitest';
import { decodeAddresses, encodeAddresses, KnownAddresses } from '../../src/session/addresses.js';
import { thrown } from '../support/errors.js';

describe('known addresses', () => {
  it('put first what was learnt last, once each, within a bound', () => {
    const known = new KnownAddresses({ direct: ['192.0.2.1:1', '192.0.2.2:1'], relays: [] });
    known.learn({ direct: ['192.0.2.2:1', '192.0.2.3:1'], relays: ['https://relay.example'] });
    expect(known.direct).toEqual(['192.0.2.2:1', '192.0.2.3:1', '192.0.2.1:1']);
    expect(known.relays).toEqual(['https://relay.example']);
    for (let port = 1; port <= 100; port += 1) known.learn({ direct: [`192.0.2.9:${port}`], relays: [] });
    expect(known.direct).toHaveLength(32);
    expect(known.direct[0]).toBe('192.0.2.9:100');
  });

  it('survive the wire, without what makes no sense', () => {
    const hints = { direct: ['192.0.2.1:1', '[2001:db8::1]:9'], relays: ['https://relay.example/'] };
    expect(decodeAddresses(encodeAddresses(hints))).toEqual(hints);
    const odd = Buffer.from(
      JSON.stringify({ direct: ['here', 7, '1.2.3.4:0'], relays: ['file:///etc', 'x'] }),
    );
    expect(decodeAddresses(odd)).toEqual({ direct: [], relays: [] });
    expect(decodeAddresses(Buffer.from('null'))).toEqual({ direct: [], relays: [] });
    expect(thrown(() => decodeAddresses(Buffer.from('{'))).code).toBe('PROTOCOL');
  });
});
