/** What a node shows of itself, and what is made of what others show. */
import { describe, expect, it } from 'vitest';
import {
  announcedNodes,
  checkAnnouncedName,
  encodeAnnouncement,
  withAnnouncedName,
} from '../../src/cli/announce.js';
import type { NodeId } from '../../src/session/node-id.js';
import { thrown } from '../support/errors.js';

const id = (digit: string) => digit.repeat(64) as NodeId;
const node = (nodeId: NodeId, name?: string) => ({
  nodeId,
  name,
  hints: { direct: ['192.0.2.7:4433'], relays: [] },
});

describe('the name after --announce', () => {
  it.each([
    [
      ['8080', '--announce'],
      ['8080', '--announce=box'],
    ],
    [
      ['--announce', '8080'],
      ['--announce=box', '8080'],
    ],
    [
      ['--announce', 'workshop', '8080'],
      ['--announce=workshop', '8080'],
    ],
    [
      ['8080', '--announce', 'the workshop'],
      ['8080', '--announce=the workshop'],
    ],
    [
      ['8080', '--announce', '--json'],
      ['8080', '--announce=box', '--json'],
    ],
    [
      ['8080', '--announce', 'db=5432'],
      ['8080', '--announce=box', 'db=5432'],
    ],
    [
      ['8080', '--announce', 'unix:/run/a.sock'],
      ['8080', '--announce=box', 'unix:/run/a.sock'],
    ],
    [
      ['8080', '--announce=x'],
      ['8080', '--announce=x'],
    ],
    [
      ['8080', '--', '--announce'],
      ['8080', '--', '--announce'],
    ],
    // No target, and no name either: the grammar of targets has the word on it.
    [
      ['--announce', 'localhost:99999'],
      ['--announce=box', 'localhost:99999'],
    ],
  ])('of %j is found', (argv, expected) => {
    expect(withAnnouncedName(argv, 'box.example.org')).toEqual(expected);
  });

  it('is that of the machine only where that can be one', () => {
    expect(withAnnouncedName(['--announce'], '-.lan')).toEqual(['--announce=unnamed']);
  });

  it.each(['', ' x', '-x', 'a;b', 'a\tb', 'a\u001b[2Jb', 'x'.repeat(49)])('cannot be %j', (name) => {
    expect(thrown(() => checkAnnouncedName(name)).code).toBe('USAGE');
  });

  it.each(['workshop', "Ada's laptop", 'büro-2', '工房'])('can be %j', (name) => {
    expect(checkAnnouncedName(name)).toBe(name);
  });
});

describe('what is announced', () => {
  it('comes back as it was', () => {
    const text = encodeAnnouncement('the workshop', ['8080', '5432:db', '53:dns/udp']);
    expect(announcedNodes([node(id('a'), text)])).toEqual([
      {
        name: 'the workshop',
        nodeId: id('a'),
        addresses: ['192.0.2.7:4433'],
        specs: ['8080', '5432:db', '53:dns/udp'],
      },
    ]);
  });

  it('has as many services as fit one entry, whole', () => {
    const specs = Array.from({ length: 100 }, (_, index) => `${1000 + index}:service-${index}`);
    const text = encodeAnnouncement('工房', specs);
    expect(Buffer.byteLength(text)).toBeLessThanOrEqual(245);
    const [seen] = announcedNodes([node(id('a'), text)]);
    expect(seen?.specs.length).toBeGreaterThan(5);
    expect(seen?.specs).toEqual(specs.slice(0, seen?.specs.length));
  });

  it('is nothing where a node shows no name', () => {
    expect(announcedNodes([node(id('a')), node(id('b'), ''), node(id('c'), '\t8080')])).toEqual([]);
  });

  it('is a stranger’s text: nothing a terminal or a shell would obey, and no listening for all the network', () => {
    const text = "work\u001b[2Jshop\t8080 $(reboot) 0.0.0.0:22:db *:1:db unix:/etc/x:db a'b 5432:db";
    const [seen] = announcedNodes([node(id('a'), text)]);
    expect(seen?.name).toBe('work�[2Jshop');
    expect(seen?.specs).toEqual(['8080', '5432:db']);
  });

  it('is in the order of names', () => {
    const names = announcedNodes([node(id('a'), 'shed'), node(id('b'), 'attic')]).map(({ name }) => name);
    expect(names).toEqual(['attic', 'shed']);
  });
});
