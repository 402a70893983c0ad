import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parsePeer } from '../../src/cli/peer.js';
import { type NodeId, parseNodeId } from '../../src/session/node-id.js';
import {
  formatTicket,
  isSocketAddress,
  isTicket,
  parseTicket,
  redactTicket,
  type Ticket,
} from '../../src/session/ticket.js';
import { codeOf, thrown } from '../support/errors.js';

const ID = 'a1'.repeat(32) as NodeId;
const TOKEN = 'S3cretS3cretS3cretS3cr';
const FULL: Ticket = {
  nodeId: ID,
  direct: ['192.0.2.7:41234', '[2001:db8::7]:41234'],
  relays: ['https://relay.example.org/'],
  token: TOKEN,
};

describe('a ticket', () => {
  it('is one URL with everything in it', () => {
    expect(formatTicket(FULL)).toBe(
      `tunnel://${ID}?addr=192.0.2.7:41234&addr=[2001:db8::7]:41234` +
        `&relay=https%3A%2F%2Frelay.example.org%2F&token=${TOKEN}`,
    );
  });

  it('survives being written and read again', () => {
    fc.assert(
      fc.property(ticket, (given) => {
        const text = formatTicket(given);
        expect(isTicket(text)).toBe(true);
        expect(parseTicket(text)).toEqual(given);
      }),
    );
  });

  it('has no blank and nothing a shell would take apart inside single quotes', () => {
    fc.assert(
      fc.property(ticket, (given) => {
        expect(formatTicket(given)).toMatch(/^[^\s'\\\p{Cc}]+$/u);
      }),
    );
  });

  it.each([
    ['an upper-case scheme and node ID', `TUNNEL://${ID.toUpperCase()}?token=${TOKEN}`],
    ['a slash before the query', `tunnel://${ID}/?token=${TOKEN}`],
    ['parameters of a newer version', `tunnel://${ID}?future=1&token=${TOKEN}&more=2`],
  ])('is read with %s', (_what, text) => {
    expect(parseTicket(text)).toMatchObject({ nodeId: ID, token: TOKEN });
  });

  it.each([
    ['another scheme', `https://${ID}?token=${TOKEN}`],
    ['no scheme', `${ID}?token=${TOKEN}`],
    ['one slash', `tunnel:/${ID}?token=${TOKEN}`],
    ['nothing', ''],
    ['no node ID', `tunnel://?token=${TOKEN}`],
    ['a short node ID', `tunnel://${ID.slice(1)}?token=${TOKEN}`],
    ['a long node ID', `tunnel://${ID}a?token=${TOKEN}`],
    ['a node ID that is no hex', `tunnel://${'g'.repeat(64)}?token=${TOKEN}`],
    ['a host name', `tunnel://example.org?token=${TOKEN}`],
    ['a user', `tunnel://me@${ID}?token=${TOKEN}`],
    ['a path', `tunnel://${ID}/path?token=${TOKEN}`],
    ['a blank in front', ` tunnel://${ID}?token=${TOKEN}`],
    ['an address without a port', `tunnel://${ID}?addr=192.0.2.7`],
    ['an address with port 0', `tunnel://${ID}?addr=192.0.2.7:0`],
    ['an address with port 65536', `tunnel://${ID}?addr=192.0.2.7:65536`],
    ['a name for an address', `tunnel://${ID}?addr=example.org:80`],
    ['IPv6 without brackets', `tunnel://${ID}?addr=::1:80`],
    ['IPv4 in brackets', `tunnel://${ID}?addr=[192.0.2.7]:80`],
    ['a relay that is no URL', `tunnel://${ID}?relay=relay.example.org`],
    ['a relay of another scheme', `tunnel://${ID}?relay=file%3A%2F%2F%2Fetc`],
    ['a script for a relay', `tunnel://${ID}?relay=javascript%3Aalert(1)`],
    ['an empty token', `tunnel://${ID}?token=`],
    ['a short token', `tunnel://${ID}?token=${TOKEN.slice(1)}`],
    ['a long token', `tunnel://${ID}?token=${TOKEN}x`],
    ['a token of other characters', `tunnel://${ID}?token=${'*'.repeat(22)}`],
    ['two tokens', `tunnel://${ID}?token=${TOKEN}&token=${TOKEN}`],
    [
      '33 addresses',
      `tunnel://${ID}?${Array.from({ length: 33 }, (_, i) => `addr=10.0.0.${i}:1`).join('&')}`,
    ],
    ['5,000 characters', `tunnel://${ID}?x=${'y'.repeat(5000)}`],
  ])('with %s is BAD_TICKET, and the token is not in the error', (_what, text) => {
    const error = thrown(() => parseTicket(text));
    expect(error.code).toBe('BAD_TICKET');
    expect(`${error.message} ${error.hint}`).not.toContain(TOKEN);
  });

  it('is read or refused as BAD_TICKET, whatever the text', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        expect([undefined, 'BAD_TICKET']).toContain(codeOf(() => parseTicket(text)));
      }),
      { numRuns: 2000 },
    );
  });

  it.each([
    ['relays', FULL],
    ['no relays', { ...FULL, relays: [] }],
    ['nothing but a token', { ...FULL, direct: [], relays: [] }],
  ])('with %s that lost or changed a character never puts its token into the error', (_what, given) => {
    const text = formatTicket(given);
    for (let position = 0; position < text.length; position += 1) {
      for (const replacement of ['', ' ', '#', '+', 'x', '%', '&', '?']) {
        const damaged = text.slice(0, position) + replacement + text.slice(position + 1);
        if (!damaged.includes(TOKEN)) continue;
        for (const read of [parseTicket, parsePeer]) {
          try {
            read(damaged);
          } catch (error) {
            const { message, hint } = error as Error & { hint?: string };
            expect(`${message} ${hint}`, damaged).not.toContain(TOKEN);
          }
        }
      }
    }
  });
});

describe('a ticket that was cut short', () => {
  const text = formatTicket(FULL);
  const cuts = Array.from({ length: text.length }, (_, length) => text.slice(0, length));
  const read = (cut: string): Ticket | undefined => {
    try {
      return parseTicket(cut);
    } catch (error) {
      expect(error).toMatchObject({ code: 'BAD_TICKET' });
      return undefined;
    }
  };

  it('is BAD_TICKET, or is whole without what was cut off; never is a part of a token taken for one', () => {
    for (const cut of cuts) {
      const ticket = read(cut);
      if (!ticket) continue;
      expect(ticket.nodeId).toBe(FULL.nodeId);
      expect(ticket.token).toBeUndefined();
    }
  });

  it('inside its node ID, an IP address or its token is BAD_TICKET', () => {
    const whole = /^tunnel:\/\/[0-9a-f]{64}$|^[^?]+\?(.+&)?(addr=[^&]+:\d{1,5}|relay=[^&]+)$/;
    for (const cut of cuts) {
      if (!whole.test(cut) && !/[?&][a-z]*$/.test(cut)) expect(read(cut), cut).toBeUndefined();
    }
  });

  // A cut between two parameters or inside a name can be seen: every parameter is `name=value`.
  it('behind a separator or inside the name of a parameter is BAD_TICKET', () => {
    const accepted = cuts.filter((cut) => /[?&][a-z]*$/.test(cut) && read(cut) !== undefined);
    expect(accepted.map((cut) => cut.slice(-12))).toEqual([]);
  });
});

describe('redaction', () => {
  it('leaves nothing of the token in any text around a ticket', () => {
    fc.assert(
      fc.property(ticketWithToken, anyText, anyText, (given, before, after) => {
        const token = given.token as string;
        fc.pre(!before.includes(token) && !after.includes(token));
        expect(redactTicket(`${before}${formatTicket(given)}${after}`)).not.toContain(token);
      }),
      { numRuns: 1000 },
    );
  });

  it.each([
    ['in JSON', JSON.stringify({ ticket: formatTicket(FULL) })],
    ['in single quotes', `forward '${formatTicket(FULL)}' db`],
    ['twice', `${formatTicket(FULL)} ${formatTicket(FULL)}`],
    ['in upper case', `tunnel://${ID}?TOKEN=${TOKEN}`],
    ['cut short in front', `…2.7:41234&token=${TOKEN}`],
    ['with the token not last', `tunnel://${ID}?token=${TOKEN}&addr=192.0.2.7:1`],
  ])('takes the token out %s', (_how, text) => {
    expect(redactTicket(text)).not.toContain(TOKEN);
  });

  it('leaves everything else as it was', () => {
    expect(redactTicket(`to ${formatTicket({ ...FULL, direct: [], relays: [] })} done`)).toBe(
      `to tunnel://${ID}?token=… done`,
    );
    expect(redactTicket('no ticket here, only a word: token')).toBe('no ticket here, only a word: token');
  });
});

describe('a socket address', () => {
  it.each(['192.0.2.7:1', '0.0.0.0:65535', '[::]:1', '[::1]:80', '[2001:db8::7]:41234'])('is %s', (text) => {
    expect(isSocketAddress(text)).toBe(true);
  });

  it.each([
    '',
    ':80',
    '192.0.2.7',
    '192.0.2.7:0',
    '192.0.2.7:65536',
    'localhost:80',
    '::1:80',
    '[::1]',
    '[1.2.3.4]:80',
    '1.2.3.4:8 0',
  ])('is not %j', (text) => {
    expect(isSocketAddress(text)).toBe(false);
  });
});

describe('a peer on the command line', () => {
  it.each([
    ['a node ID', ID, 'none'],
    ['a node ID in capitals', ID.toUpperCase(), 'none'],
    ['a ticket', formatTicket(FULL), TOKEN],
  ])('is %s', (_what, text, token) => {
    expect(parsePeer(text)).toMatchObject({ nodeId: ID });
    expect(parsePeer(text).token ?? 'none').toBe(token);
  });

  it.each([
    ['a foreign URL', 'https://example.org/?token=abc', 'BAD_TICKET'],
    ['a damaged ticket', `tunnel:${ID}`, 'BAD_TICKET'],
    ['a short node ID', ID.slice(2), 'BAD_NODE_ID'],
    ['a word', 'alice', 'BAD_NODE_ID'],
    ['nothing', '', 'BAD_NODE_ID'],
  ])('that is %s is refused', (_what, text, code) => {
    expect(thrown(() => parsePeer(text)).code).toBe(code);
  });

  it('that is a foreign URL is not quoted beyond its scheme: it may hold a secret', () => {
    expect(thrown(() => parsePeer(`https://x/?token=${TOKEN}`)).message).not.toContain(TOKEN);
  });
});

// ---- arbitraries

const nodeId = fc
  .stringMatching(/^[0-9a-f]{64}$/)
  .filter((text) => codeOf(() => parseNodeId(text)) === undefined)
  .map((text) => text as NodeId);
const token = fc.stringMatching(/^[A-Za-z0-9_-]{22}$/);
const port = fc.integer({ min: 1, max: 65535 });
const address = fc.oneof(
  fc.tuple(fc.ipV4(), port).map(([ip, p]) => `${ip}:${p}`),
  fc.tuple(fc.ipV6(), port).map(([ip, p]) => `[${ip}]:${p}`),
);
const fields = {
  nodeId,
  direct: fc.array(address, { maxLength: 8 }),
  relays: fc.array(fc.webUrl({ withQueryParameters: true }), { maxLength: 3 }),
};
const ticket: fc.Arbitrary<Ticket> = fc.record({ ...fields, token: fc.option(token, { nil: undefined }) });
const ticketWithToken: fc.Arbitrary<Ticket> = fc.record({ ...fields, token });
const anyText = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string(),
  fc
    .array(
      fc.oneof(
        fc.constantFrom(
          'tunnel://',
          ID,
          '?',
          '&',
          '=',
          'addr=',
          'relay=',
          'token=',
          TOKEN,
          '1.2.3.4:5',
          '#',
          '%',
        ),
        fc.string({ maxLength: 4 }),
      ),
      { maxLength: 10 },
    )
    .map((parts) => parts.join('')),
);
