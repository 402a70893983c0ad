/** How limits of bytes a second are written, and whom they are for. */
import { describe, expect, it } from 'vitest';
import type { TunnelError } from '../../src/error.js';
import { Identity } from '../../src/session/identity.js';
import { parseNodeId } from '../../src/session/node-id.js';
import { parseRate, parseRateRules, Rates } from '../../src/tunnel/rates.js';

const peer = Identity.generate().nodeId;
const names = { services: ['db', 'web'], peer: (text: string) => parseNodeId(text) };

function code(work: () => unknown): string | undefined {
  try {
    work();
  } catch (error) {
    return (error as TunnelError).code;
  }
  return undefined;
}

describe('a rate', () => {
  it.each([
    ['10MB/s', 10e6],
    ['10MB', 10e6],
    ['1.5MB/s', 1.5e6],
    ['2Mbit', 250_000],
    ['2Mbit/s', 250_000],
    ['800kbps', 100_000],
    ['800kBps', 800_000],
    ['64KiB/s', 65_536],
    ['1 GB/s', 1e9],
    ['5000B/s', 5000],
  ])('%s is %d bytes a second', (text, bytes) => {
    expect(parseRate(text)).toBe(bytes);
  });

  it.each(['', '10', '10M', '10Mb/s', '-1MB/s', '0MB/s', '1B/s', '9999TB/s', 'fast', '1e6B/s', '10MB/min'])(
    "'%s' is refused",
    (text) => {
      expect(code(() => parseRate(text))).toBe('USAGE');
    },
  );
});

describe('rules', () => {
  it('are for everything, a service, or a peer', () => {
    expect(parseRateRules(['10MB/s', 'db=1MB/s', `peer:${peer}=2Mbit`], names)).toEqual([
      { scope: 'all', name: '', bytesPerSecond: 10e6 },
      { scope: 'service', name: 'db', bytesPerSecond: 1e6 },
      { scope: 'peer', name: peer, bytesPerSecond: 250_000 },
    ]);
  });

  it.each([[['mail=1MB/s']], [['1MB/s', '2MB/s']], [['db=1MB/s', 'db=1MB/s']], [['db=']]])(
    '%j are refused',
    (texts) => {
      expect(code(() => parseRateRules(texts, names))).toBe('USAGE');
    },
  );

  it('name no peer where there is only one, and no peer that is none', () => {
    expect(code(() => parseRateRules([`peer:${peer}=1MB/s`], { services: ['db'] }))).toBe('USAGE');
    expect(code(() => parseRateRules(['peer:bob=1MB/s'], names))).toBe('BAD_NODE_ID');
  });

  it('cost nothing where none applies, and apply together where several do', () => {
    const rates = new Rates(parseRateRules(['db=1MB/s', `peer:${peer}=100kB/s`], names));
    const other = Identity.generate().nodeId;
    expect(rates.lanes(other, 'web')).toBeUndefined();
    expect(rates.lanes(other, 'db')?.in.turnBytes).toBe(5000);
    expect(rates.lanes(peer, 'db')?.out.turnBytes).toBe(4096);
    expect(new Rates([]).lanes(peer, 'db')).toBeUndefined();
  });
});
