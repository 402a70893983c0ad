import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  formatLocal,
  formatTarget,
  type Local,
  type Protocol,
  parseForwardSpec,
  parseForwardSpecs,
  parseTarget,
  parseTargets,
  type Service,
} from '../../src/tunnel/spec.js';
import { codeOf, thrown } from '../support/errors.js';

const longPath = `/tmp/${'p'.repeat(102)}`;

describe('a target', () => {
  const valid: readonly [text: string, name: string, protocol: Protocol, where: string][] = [
    ['8080', '8080', 'tcp', '127.0.0.1:8080'],
    ['1', '1', 'tcp', '127.0.0.1:1'],
    ['65535', '65535', 'tcp', '127.0.0.1:65535'],
    ['tcp:8080', '8080', 'tcp', '127.0.0.1:8080'],
    ['udp:53', '53', 'udp', '127.0.0.1:53'],
    ['web=8080', 'web', 'tcp', '127.0.0.1:8080'],
    ['web=localhost:3000', 'web', 'tcp', 'localhost:3000'],
    ['db=10.0.0.5:5432', 'db', 'tcp', '10.0.0.5:5432'],
    ['db=tcp:10.0.0.5:5432', 'db', 'tcp', '10.0.0.5:5432'],
    ['dns=udp:192.0.2.1:53', 'dns', 'udp', '192.0.2.1:53'],
    ['localhost:3000', '3000', 'tcp', 'localhost:3000'],
    ['db.internal.example:5432', '5432', 'tcp', 'db.internal.example:5432'],
    ['_srv.my-host:80', '80', 'tcp', '_srv.my-host:80'],
    ['[::1]:8080', '8080', 'tcp', '[::1]:8080'],
    ['tcp:[::1]:8080', '8080', 'tcp', '[::1]:8080'],
    ['dns=udp:[2001:db8::53]:53', 'dns', 'udp', '[2001:db8::53]:53'],
    ['[::ffff:192.0.2.1]:80', '80', 'tcp', '[::ffff:192.0.2.1]:80'],
    ['unix:/run/docker.sock', 'docker.sock', 'tcp', 'unix:/run/docker.sock'],
    ['docker=unix:/run/docker.sock', 'docker', 'tcp', 'unix:/run/docker.sock'],
    ['odd=unix:/run/a=b:c.sock', 'odd', 'tcp', 'unix:/run/a=b:c.sock'],
    ['unix:/run/a=b/c.sock', 'c.sock', 'tcp', 'unix:/run/a=b/c.sock'],
    [`long=unix:${longPath}`, 'long', 'tcp', `unix:${longPath}`],
    ['00080', '80', 'tcp', '127.0.0.1:80'],
    ['a.b_c-1=80', 'a.b_c-1', 'tcp', '127.0.0.1:80'],
    [`${'n'.repeat(64)}=80`, 'n'.repeat(64), 'tcp', '127.0.0.1:80'],
    // A word before a port alone is a host name, whatever else it may be called.
    ['http:8080', '8080', 'tcp', 'http:8080'],
  ];

  it.each(valid)('%s is the service %s over %s at %s', (text, name, protocol, where) => {
    const service = parseTarget(text);
    expect([service.name, service.target.protocol, formatTarget(service.target)]).toEqual([
      name,
      protocol,
      where,
    ]);
  });

  const invalid: readonly [text: string, offending: string][] = [
    ['', "''"],
    ['0', 'port 0'],
    ['65536', '65536'],
    ['localhost:65536', '65536'],
    ['999999999999', '999999999999'],
    ['-1', '-1'],
    ['+80', '+80'],
    ['8080x', '8080x'],
    ['0x50', '0x50'],
    ['80.5', '80.5'],
    [' 80', ' 80'],
    ['80 ', '80 '],
    ['٣', '٣'],
    ['localhost', 'localhost'],
    ['localhost:', 'localhost:'],
    ['=8080', '=8080'],
    ['web=', 'web='],
    ['web=db=80', 'db=80'],
    ['-web=80', '-web'],
    ['my web=80', 'my web'],
    [`${'n'.repeat(65)}=80`, 'n'.repeat(65)],
    ['ftp:localhost:21', 'ftp'],
    ['web=http://localhost:3000', 'http'],
    ['ftp:[::1]:21', 'ftp'],
    ['tcp:', 'tcp:'],
    ['udp:localhost', 'localhost'],
    ['::1:8080', '::1:8080'],
    ['2001:db8::1:80', '2001:db8::1:80'],
    ['[::1]', '[::1]'],
    ['[::1]8080', '[::1]8080'],
    ['[localhost]:80', 'localhost'],
    ['[127.0.0.1]:80', '127.0.0.1'],
    ['[]:80', '[]'],
    ['[::1:80', '[::1:80'],
    ['256.0.0.1:80', '256.0.0.1'],
    ['1.2.3:80', '1.2.3'],
    ['-host:80', '-host'],
    ['ho st:80', 'ho st'],
    ['8080/udp', '8080/udp'],
    // "Any address" is where one listens; nobody can be reached there.
    ['*:80', '*'],
    ['web=*:80', '*'],
    ['unix:', 'unix:'],
    ['unix:run/docker.sock', 'unix:run/docker.sock'],
    ['web=unix:relative', 'web=unix:relative'],
    ['unix:/', 'unix:/'],
    ['unix:/run/.hidden', 'unix:/run/.hidden'],
    ['unix:/run/my socket', 'unix:/run/my socket'],
    ['web=unix:/run/a\nb', 'control character'],
    [`web=unix:${longPath}p`, '108'],
  ];

  it.each(invalid)('%j is a usage error that names %j', (text, offending) => {
    const error = thrown(() => parseTarget(text));
    expect(error.code).toBe('USAGE');
    expect(error.message).toContain(offending);
  });

  it('that is wrong comes with examples that are right', () => {
    const { hint } = thrown(() => parseTarget('ftp:localhost:21'));
    const examples = (hint ?? '').replace(/^[^:]*: /, '').split(', ');
    expect(examples.length).toBeGreaterThan(1);
    for (const example of examples) expect(() => parseTarget(example)).not.toThrow();
  });

  it('is parsed or refused as a usage error, whatever the text', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        expect([undefined, 'USAGE']).toContain(codeOf(() => parseTarget(text)));
      }),
      { numRuns: 2000 },
    );
  });

  it('survives being written out and read again', () => {
    fc.assert(
      fc.property(service, (given) => {
        const { name, target } = given;
        const protocol = target.kind === 'unix' ? '' : `${target.protocol}:`;
        expect(parseTarget(`${name}=${protocol}${formatTarget(target)}`)).toEqual(given);
      }),
    );
  });
});

describe('several targets', () => {
  it('keep their order', () => {
    expect(parseTargets(['b=2', 'a=1', 'unix:/run/c']).map(({ name }) => name)).toEqual(['b', 'a', 'c']);
  });

  it('may share a name across protocols', () => {
    expect(parseTargets(['tcp:53', 'udp:53'])).toHaveLength(2);
  });

  it.each([
    [['8080', '8080'], '8080'],
    [['8080', 'localhost:8080'], 'localhost:8080'],
    [['db=5432', 'web=80', 'db=unix:/run/db'], 'db=unix:/run/db'],
    [['unix:/a/sock', 'unix:/b/sock'], 'unix:/b/sock'],
  ])('%j repeat a name, which is a usage error that names the second', (texts, second) => {
    const error = thrown(() => parseTargets(texts));
    expect(error.code).toBe('USAGE');
    expect(error.message).toContain(second);
  });

  it.each([
    [['8080', 'localhost:8080']],
    [['db=5432', 'db=unix:/run/db']],
    [['unix:/a/sock', 'unix:/b/sock']],
    [['unix:/x=1/sock', 'unix:/x=2/sock']],
  ])('%j repeat a name, and the hint shows one that is right', (texts) => {
    const { hint } = thrown(() => parseTargets(texts));
    const example = (hint ?? '').replace(/^[^:]*: /, '');
    expect(() => parseTargets([texts[0] as string, example])).not.toThrow();
  });
});

describe('a forward spec', () => {
  const valid: readonly [text: string, local: string, protocol: Protocol, service: string][] = [
    ['5432', '127.0.0.1:5432', 'tcp', '5432'],
    ['65535', '127.0.0.1:65535', 'tcp', '65535'],
    ['5353/udp', '127.0.0.1:5353', 'udp', '5353'],
    ['15432:db', '127.0.0.1:15432', 'tcp', 'db'],
    ['15432:db/tcp', '127.0.0.1:15432', 'tcp', 'db'],
    ['5353:dns/udp', '127.0.0.1:5353', 'udp', 'dns'],
    ['0:web', '127.0.0.1:0', 'tcp', 'web'],
    ['15432:5432', '127.0.0.1:15432', 'tcp', '5432'],
    ['0.0.0.0:8080:web', '0.0.0.0:8080', 'tcp', 'web'],
    ['*:8080:web', '[::]:8080', 'tcp', 'web'],
    ['localhost:8080:web', 'localhost:8080', 'tcp', 'web'],
    ['[::1]:8080:web', '[::1]:8080', 'tcp', 'web'],
    ['[::]:5353:dns/udp', '[::]:5353', 'udp', 'dns'],
    ['unix:/tmp/db.sock:db', 'unix:/tmp/db.sock', 'tcp', 'db'],
    ['unix:/tmp/a:b.sock:db', 'unix:/tmp/a:b.sock', 'tcp', 'db'],
    ['8080:docker.sock', '127.0.0.1:8080', 'tcp', 'docker.sock'],
  ];

  it.each(valid)('%s listens on %s over %s for the service %s', (...row) => {
    const [text, local, protocol, name] = row;
    const spec = parseForwardSpec(text);
    expect([formatLocal(spec.local), spec.protocol, spec.service]).toEqual([local, protocol, name]);
  });

  const invalid: readonly [text: string, offending: string][] = [
    ['', "''"],
    ['db', 'db'],
    ['70000', '70000'],
    ['65536:db', '65536'],
    ['0.0.0.0:65536:db', '65536'],
    ['-1:db', '-1'],
    ['x:db', 'x'],
    ['15432:', "''"],
    [':db', "''"],
    ['15432:my db', 'my db'],
    ['15432:-db', '-db'],
    [`15432:${'n'.repeat(65)}`, 'n'.repeat(65)],
    ['127.0.0.1:db', '127.0.0.1'],
    ['256.0.0.1:80:db', '256.0.0.1'],
    ['::1:8080:db', '::1:8080'],
    ['[::1:8080:db', '[::1:8080:db'],
    ['[nonsense]:8080:db', 'nonsense'],
    ['a:b:8080:db', 'a:b:8080'],
    ['15432:db/icmp', 'icmp'],
    ['15432:db/', '/'],
    ['15432:db/UDP', 'UDP'],
    ['15432:db/udp/tcp', 'db/udp'],
    ['15432/udp:db', '15432/udp'],
    ['unix:', 'unix:'],
    ['unix:db', 'unix:db'],
    ['unix:/tmp/db.sock', 'unix:/tmp/db.sock'],
    ['unix:tmp/db.sock:db', 'unix:tmp/db.sock:db'],
    ['unix:/tmp/db.sock:', 'unix:/tmp/db.sock:'],
    ['unix:/tmp/db.sock:db/udp', 'db/udp'],
    [`unix:${longPath}p:db`, '108'],
    ['unix:/tmp/\u001b[2J:db', 'control character'],
  ];

  it.each(invalid)('%j is a usage error that names %j', (text, offending) => {
    const error = thrown(() => parseForwardSpec(text));
    expect(error.code).toBe('USAGE');
    expect(error.message).toContain(offending);
  });

  it('that is wrong comes with examples that are right', () => {
    const { hint } = thrown(() => parseForwardSpec('15432:db/icmp'));
    const examples = (hint ?? '').replace(/^[^:]*: /, '').split(', ');
    expect(examples.length).toBeGreaterThan(1);
    for (const example of examples) expect(() => parseForwardSpec(example)).not.toThrow();
  });

  it('is parsed or refused as a usage error, whatever the text', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        expect([undefined, 'USAGE']).toContain(codeOf(() => parseForwardSpec(text)));
      }),
      { numRuns: 2000 },
    );
  });

  it('survives being written out and read again', () => {
    fc.assert(
      fc.property(local, serviceName, protocol, (where, name, over) => {
        const suffix = where.kind === 'unix' || over === 'tcp' ? '' : '/udp';
        expect(parseForwardSpec(`${formatLocal(where)}:${name}${suffix}`)).toEqual({
          local: where,
          service: name,
          protocol: where.kind === 'unix' ? 'tcp' : over,
        });
      }),
    );
  });
});

describe('several forward specs', () => {
  it.each([
    [['5432', '5432'], '127.0.0.1:5432'],
    [['5432', '5432:db'], '127.0.0.1:5432'],
    [['15432:db', '127.0.0.1:15432:web'], '127.0.0.1:15432'],
    [['15432:db', '0:x', '15432:web'], '127.0.0.1:15432'],
    [['*:80:a', '[::]:80:b'], '[::]:80'],
    [['unix:/tmp/s:a', 'unix:/tmp/s:b'], 'unix:/tmp/s'],
    [['53:a/udp', '53:b/udp'], '127.0.0.1:53'],
  ])('%j listen in one place twice, which is a usage error that names %s', (texts, place) => {
    const error = thrown(() => parseForwardSpecs(texts));
    expect(error.code).toBe('USAGE');
    expect(error.message).toContain(place);
  });

  it.each([
    [['0:db', '0:db']],
    [['53:dns', '53:dns/udp']],
    [['127.0.0.1:80:a', '127.0.0.2:80:a']],
    [['15432:db', '15433:db']],
    [['unix:/tmp/a:s', 'unix:/tmp/b:s']],
  ])('%j do not collide', (texts) => {
    expect(parseForwardSpecs(texts)).toHaveLength(texts.length);
  });

  it('are parsed or refused as a usage error, whatever the texts', () => {
    fc.assert(
      fc.property(fc.array(anyText, { maxLength: 4 }), (texts) => {
        expect([undefined, 'USAGE']).toContain(codeOf(() => parseForwardSpecs(texts)));
        expect([undefined, 'USAGE']).toContain(codeOf(() => parseTargets(texts)));
      }),
    );
  });
});

// ---- arbitraries

const serviceName = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/);
const protocol = fc.constantFrom<Protocol>('tcp', 'udp');
const host = fc.oneof(
  fc.ipV4(),
  fc.ipV6(),
  // A name of digits and dots alone would be taken for a mistyped address.
  fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_.-]{0,60}$/),
);
const unixPath = fc.stringMatching(/^\/[\x21-\x7e]{1,90}$/);
const local: fc.Arbitrary<Local> = fc.oneof(
  fc.record({
    kind: fc.constant('socket' as const),
    host,
    port: fc.integer({ min: 0, max: 65535 }),
  }),
  fc.record({ kind: fc.constant('unix' as const), path: unixPath }),
);
const service: fc.Arbitrary<Service> = fc.record({
  name: serviceName,
  target: fc.oneof(
    fc.record({
      kind: fc.constant('socket' as const),
      protocol,
      host,
      port: fc.integer({ min: 1, max: 65535 }),
    }),
    fc.record({ kind: fc.constant('unix' as const), protocol: fc.constant('tcp' as const), path: unixPath }),
  ),
});
/** Text that looks like a spec more often than not, and text that looks like nothing. */
const anyText = fc.oneof(
  fc.string(),
  fc.string({ unit: 'binary' }),
  fc
    .array(
      fc.oneof(
        fc.constantFrom(':', '=', '/', '[', ']', '*', 'unix:', 'tcp:', 'udp:', '/udp', '::1', '.', '-', '\n'),
        fc.integer({ min: -1, max: 70000 }).map(String),
        fc.string({ maxLength: 4 }),
      ),
      { maxLength: 8 },
    )
    .map((parts) => parts.join('')),
);
