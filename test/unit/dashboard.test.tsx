/** The dashboard's components on snapshots, in a terminal that is only a string. */
import { Text } from 'ink';
import { render } from 'ink-testing-library';
import stringWidth from 'string-width';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Dashboard } from '../../src/tui/dashboard.js';
import type { Approval, SessionStatus, StatusSnapshot } from '../../src/tunnel/status.js';
import { eventually } from '../support/eventually.js';
import { ManualFeed, ModelBench, PEER, RecordedActions } from '../support/figures.js';

vi.mock('string-width', { spy: true });

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const OBEYED = /[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/;
/** How the view itself makes texts bold, dim and inverse. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: what a terminal is told
const STYLES = /\x1b\[(?:1|2|7|22|27)m/g;
const SIZES = [
  [80, 24],
  [200, 60],
  [40, 15],
] as const;

const cleanups: (() => void)[] = [];

// As the program shows it; ink-testing-library passes no such option on.
beforeEach(() => vi.stubEnv('INK_SCREEN_READER', 'true'));

afterEach(() => {
  vi.unstubAllEnvs();
  for (const cleanup of cleanups.splice(0)) cleanup();
});

interface ShowOptions {
  readonly columns?: number;
  readonly rows?: number;
  readonly endsTunnel?: boolean;
  readonly invitation?: readonly string[];
}

function show(
  snapshots: readonly StatusSnapshot[],
  { columns = 80, rows = 24, ...options }: ShowOptions = {},
) {
  const feed = new ManualFeed(...snapshots);
  const actions = new RecordedActions();
  const quits: string[] = [];
  const dashboard = (
    <Dashboard
      feed={feed}
      actions={actions}
      color={false}
      endsTunnel={options.endsTunnel ?? true}
      invitation={() => options.invitation}
      onQuit={(how) => quits.push(how)}
    />
  );
  // The size has to be there before the dashboard is.
  const app = render(<Text>…</Text>);
  Object.defineProperty(app.stdout, 'columns', { value: columns });
  Object.defineProperty(app.stdout, 'rows', { value: rows, configurable: true });
  app.rerender(dashboard);
  cleanups.push(() => {
    app.unmount();
    app.cleanup();
  });
  const screen = () => (app.lastFrame() ?? '').replace(STYLES, '');
  const press = async (text: string, shows: RegExp | (() => boolean)) => {
    // The keys are listened for once React has run its effects.
    await eventually(() => app.stdin.listenerCount('readable') > 0);
    app.stdin.write(text);
    const done = await eventually(() => (typeof shows === 'function' ? shows() : shows.test(screen())));
    expect(done, `${JSON.stringify(text)} should show ${shows}\n${screen()}`).toBe(true);
  };
  return { app, feed, actions, quits, screen, press };
}

function bench(channels = 0, options: ConstructorParameters<typeof ModelBench>[0] = {}): ModelBench {
  const one = new ModelBench(options);
  one.listening('127.0.0.1:1');
  for (let id = 1; id <= channels; id += 1) one.open(id);
  one.after(1000);
  cleanups.push(() => one.model.close());
  return one;
}

function expectFits(screen: string, columns: number, rows: number): void {
  const lines = screen.split('\n');
  expect(lines.length).toBeLessThanOrEqual(rows);
  for (const line of lines) expect(stringWidth(line), line).toBeLessThanOrEqual(columns);
  expect(screen).not.toMatch(OBEYED);
}

describe.each(SIZES)('at %i×%i', (columns, rows) => {
  it.each([0, 1, 10_000])('%i channels fit', (channels) => {
    const { screen } = show([bench(channels).snapshot({ limit: 500 })], { columns, rows });
    expectFits(screen(), columns, rows);
    expect(screen()).toContain(`CHANNELS ${channels}`);
    expect(screen()).toContain('q quit');
    if (channels === 0) expect(screen()).toContain('no open channels');
  });

  it.each([
    ['very long', 'a-very-long-name-'.repeat(40)],
    ['wide', '数据库の接続'.repeat(10)],
    ['hostile', '\x1b[2J\x1b]0;owned\x07\u202egnp.exe\r\n\x9b31m'],
    ['emoji', '👩‍👩‍👧‍👦🏳️‍🌈e\u0301'.repeat(5)],
  ])('%s names break nothing', async (_kind, name) => {
    const model = bench();
    model.listening('127.0.0.1:9', name);
    model.open(1, { service: name, client: name, path: name });
    model.model.observe({ event: 'error', code: 'DENIED', message: name });
    model.model.observe({
      event: 'session',
      peer: PEER as never,
      state: 'reconnecting',
      error: { code: 'SESSION_LOST', message: name },
    });
    model.after(1000);
    const { screen, press } = show([model.snapshot()], { columns, rows });
    expectFits(screen(), columns, rows);
    await press('\r', /CHANNEL 1/);
    expectFits(screen(), columns, rows);
  });

  it('the help and the invitation fit', async () => {
    const invitation = ['node x', '', `  tunnel forward 'tunnel://${'a'.repeat(200)}' 5432`];
    const { screen, press } = show([bench().snapshot()], { columns, rows, invitation });
    expect(screen()).toContain('TICKET');
    expectFits(screen(), columns, rows);
    await press('?', /HELP/);
    expectFits(screen(), columns, rows);
    // All of it, also where there is least room.
    expect(screen()).toContain('connected, not connected');
    expect(screen().split('\n').slice(1).join()).not.toContain('…');
  });

  it('what is asked shows how to answer it', async () => {
    const { screen, press } = show([bench(2).snapshot()], { columns, rows });
    await press('x', /reset channel 2\? {2}y yes {2}n no/);
    expectFits(screen(), columns, rows);
    await press('n', /not reset/);
    await press('q', /stop\? {2}y yes {2}n no/);
    expectFits(screen(), columns, rows);
  });

  it('how far a channel is closed can be read', () => {
    const model = bench();
    model.open(1, { state: 'half-closed (sent EOS)', client: undefined });
    model.after(1000);
    const { screen } = show([model.snapshot()], { columns, rows });
    expect(screen()).toMatch(/sent EOS/);
  });
});

it.each(SIZES)('at %i×%i Ink shows the same with its grid of cells', async (columns, rows) => {
  const snapshot = bench(100, { nameOf: () => '数据库 👩‍👩‍👧‍👦' }).snapshot();
  const lines = (screen: string) => screen.split('\n').map((line) => line.trimEnd());
  const linear = show([snapshot], { columns, rows });
  vi.stubEnv('INK_SCREEN_READER', 'false');
  const grid = show([snapshot], { columns, rows });
  expect(lines(linear.screen())).toEqual(lines(grid.screen()));
  for (const [key, shows] of [
    ['?', /HELP/],
    ['q', /▸CHANNELS/],
    ['\r', /CHANNEL 100/],
  ] as const) {
    await linear.press(key, shows);
    await grid.press(key, shows);
    expect(lines(linear.screen())).toEqual(lines(grid.screen()));
  }
});

describe('selection', () => {
  it('stays with its row while the order changes around it', async () => {
    const model = bench(3);
    const { screen, press, feed } = show([model.snapshot({ sort: 'rate' })]);
    await press('\x1b[B', /› +2 {2}db/);
    (model.channels.get(1) as { bytesIn: number }).bytesIn = 1_000_000;
    model.after(1000);
    feed.show(model.snapshot({ sort: 'rate' }));
    expect(await eventually(() => /MB\/s|kB\/s/.test(screen()))).toBe(true);
    expect(screen()).toMatch(/› +2 {2}db/);
    await press('\x1b[A', /› +3 {2}db/);
  });

  it('reaches the last of many rows, and asks for more of them', async () => {
    const model = bench(2000);
    const { press, feed } = show([model.snapshot({ limit: 500 })]);
    await press('G', /› +1501 {2}db/);
    expect(await eventually(() => feed.asked.at(-1)?.limit === 1000)).toBe(true);
    feed.show(model.snapshot({ limit: 1000 }));
    await press('G', /› +1001 {2}db/);
  });

  it('of a channel that ends keeps its detail, with the reason', async () => {
    const model = bench(1);
    const { press, feed, screen } = show([model.snapshot()]);
    await press('\r', /state +open/);
    model.close(1, 'resume-expired');
    feed.show(model.snapshot());
    expect(await eventually(() => /state +closed: resume-expired/.test(screen())), screen()).toBe(true);
    await press('\x1b', /no open channels/);
  });
});

describe('a page that is longer than its place', () => {
  it('of a channel is scrolled to its last line, and says where it is', async () => {
    const { screen, press } = show([bench(2).snapshot()], { columns: 40, rows: 15 });
    await press('\r', /CHANNEL 2 ─.* 1-12 of \d\d ─/);
    expect(screen()).not.toContain('4242');
    expect(screen()).toContain('↑↓ scroll');
    await press('G', /process +4242/);
    expect(screen()).not.toContain('state');
    await press('\x1b[A', /age/);
    await press('g', /state +open/);
    await press('\x1b[B', / 2-13 of/);
    await press('\x1b[6~', /process +4242/);
    expectFits(screen(), 40, 15);
  });

  it('shows its end after a resize, wherever it was scrolled to', async () => {
    const { app, screen, press } = show([bench(1).snapshot()], { columns: 40, rows: 12 });
    await press('\r', /CHANNEL 1/);
    await press('G', /process +4242/);
    Object.defineProperty(app.stdout, 'rows', { value: 24 });
    app.stdout.emit('resize');
    expect(await eventually(() => /state +open/.test(screen())), screen()).toBe(true);
    expect(screen()).toMatch(/process +4242/);
  });

  it('of a ticket is shown whole by t and the arrows, and by no other key', async () => {
    const invitation = ['Run there:', '', `  tunnel forward 'tunnel://${'a'.repeat(600)}Z' 5432`];
    const { screen, press } = show([bench().snapshot()], { columns: 40, rows: 15, invitation });
    expect(screen()).toContain('t shows all of it');
    await press('t', /any other key goes back/);
    await press('G', /Z' /);
    await press('x', /t shows all of it/);
  });
});

describe('a detail', () => {
  it('of a peer has what was sent here beside what came in there', async () => {
    const traffic = { rateIn: 0, rateOut: 0 };
    const session: SessionStatus = {
      ...{ key: PEER, peer: PEER, state: 'connected', since: new Date().toISOString(), channels: 1 },
      ...{ path: 'iroh-direct', remote: '192.0.2.7:1', rttMs: 3 },
      ...{ ...traffic, bytesIn: 7, bytesOut: 500 },
      theirs: { ...traffic, channels: 1, path: 'iroh-direct', rttMs: 3, bytesIn: 499, bytesOut: 8 },
    };
    const { press } = show([{ ...bench().snapshot(), sessions: [session] }]);
    await press('\x1b[Z', /▸PEERS/);
    await press('\r', /▲ to the peer +500 B, 0 B\/s +499 B[\s\S]*▼ from the peer +7 B, 0 B\/s +8 B/);
  });

  it('has the rows beside it to its left and right, from their first lines', async () => {
    const { screen, press } = show([bench(3).snapshot()], { columns: 40, rows: 15 });
    await press('\r', /CHANNEL 3/);
    await press('G', /process +4242/);
    await press('\x1b[C', /CHANNEL 2/);
    expect(screen()).toMatch(/state +open/);
    await press('\x1b[D', /CHANNEL 3/);
    await press('\x1b[D', /CHANNEL 3/);
    await press('\x1b', /▸CHANNELS/);
  });

  it('of the newest event is there after walking to it', async () => {
    const model = bench();
    for (const text of ['first', 'second']) model.model.note(text);
    const { press, feed } = show([model.snapshot()]);
    await press('\t', /▸EVENTS/);
    await press('\x1b[A\r', /first/);
    await press('\x1b[C', /EVENT[\s\S]*second/);
    model.model.note('third');
    feed.show(model.snapshot());
    await press('\x1b[C', /EVENT[\s\S]*third/);
  });
});

describe('keys', () => {
  it('filter and sort ask the feed', async () => {
    const { press, feed } = show([bench(3).snapshot()]);
    await press('/', /type to filter/);
    await press('40002', /\/40002/);
    await press('\r', /matching "40002"/);
    expect(await eventually(() => feed.asked.at(-1)?.filter === '40002')).toBe(true);
    await press('s', /sort: bytes/);
    await press('S', /sort: bytes, reversed/);
    expect(await eventually(() => feed.asked.at(-1)?.reverse === true)).toBe(true);
    expect(feed.asked.at(-1)).toMatchObject({ sort: 'bytes', filter: '40002' });
    await press('\x1b', () => feed.asked.at(-1)?.filter === '');
  });

  it('pause holds the screen while snapshots come', async () => {
    const model = bench(1);
    const { press, feed, screen } = show([model.snapshot()]);
    await press('p', /PAUSED/);
    model.open(2);
    feed.show(model.snapshot());
    await press('?', /HELP/);
    await press('\x1b', /CHANNELS 1 /);
    await press('p', /CHANNELS 2 /);
    expect(screen()).not.toContain('PAUSED');
  });

  it('reset asks, and only y means yes', async () => {
    const { press, actions } = show([bench(2).snapshot()]);
    await press('x', /reset channel 2\? {2}y yes/);
    await press('q', /not reset/);
    expect(actions.done).toEqual([]);
    await press('xy', /channel 2 was reset/);
    expect(actions.done).toEqual(['reset 4242 2']);
    await press('\t', /▸EVENTS/);
    await press('x', /select a channel/);
  });

  it('quit asks when it would end channels, and not when it only ends the view', async () => {
    const own = show([bench(2).snapshot()]);
    await own.press('q', /stop\? {2}y yes {2}n no: 2 open channels/);
    await own.press('n', /q quit/);
    expect(own.quits).toEqual([]);
    await own.press('qy', () => own.quits.length === 1);
    await own.press('\x03', () => own.quits[1] === 'interrupt');
    const all = show([bench(2).snapshot()], { endsTunnel: false });
    await all.press('q', () => all.quits.length === 1);
  });

  it('typed at once are all obeyed', async () => {
    const { press } = show([bench(2).snapshot()]);
    await press('sssp', /PAUSED[\s\S]*sort: id/);
  });
});

describe('a waiting approval', () => {
  const approval: Approval = {
    id: 7,
    peer: PEER,
    services: ['db', 'dns/udp'],
    everything: false,
    more: 0,
    from: '192.0.2.7:41234',
    since: new Date(0).toISOString(),
    until: new Date(Date.now() + 300_000).toISOString(),
  };
  const other: Approval = { ...approval, id: 8, peer: 'cd'.repeat(32) };

  it.each(SIZES)('is told on top at %i×%i, with who, what, from where and the keys', (columns, rows) => {
    const { screen } = show([{ ...bench(100).snapshot(), approvals: [approval, other] }], { columns, rows });
    expectFits(screen(), columns, rows);
    const [, who, what, id] = screen().split('\n');
    expect(who).toContain('‼ ab12');
    expect(who).toContain('WAITS');
    expect(what).toContain('db, dns/udp');
    expect(id).toContain(PEER.slice(0, 30));
    if (columns < 80) return;
    expect(who).toContain('a allow  d deny');
    expect(who).toContain('1 more');
    expect(what).toContain('192.0.2.7:41234');
    expect(id).toContain(PEER);
  });

  it('is decided by a or d, and then 1 for this once or 2 for always', async () => {
    const { press, actions } = show([{ ...bench().snapshot(), approvals: [approval] }]);
    await press('a', /1 this once {2}2 always.*let ab12.* in to db, dns\/udp\?/);
    expect(actions.done).toEqual([]);
    await press('1', /allowed ab12.*this once/);
    await press('a', /1 this once/);
    await press('2', /allowed ab12.*from now on/);
    await press('d', /1 this once {2}2 always.*deny ab12/);
    await press('2', /denied ab12.*from now on/);
    expect(actions.done).toEqual(['allow 4242 7 once', 'allow 4242 7 always', 'deny 4242 7 always']);
  });

  it.each(['\x1b', 'a', 'y', 'q', ' '])('is not decided by %j', async (key) => {
    const { press, actions, quits } = show([{ ...bench().snapshot(), approvals: [approval] }]);
    await press('a', /1 this once/);
    await press(key, /not decided/);
    expect(actions.done).toEqual([]);
    expect(quits).toEqual([]);
  });

  it('is the one that was shown when the key was pressed, whoever comes meanwhile', async () => {
    const snapshot = bench().snapshot();
    const { press, actions, feed } = show([{ ...snapshot, approvals: [approval] }]);
    await press('a', /1 this once/);
    feed.show({ ...snapshot, approvals: [other] });
    await press('1', /allowed ab12/);
    expect(actions.done).toEqual(['allow 4242 7 once']);
  });

  it('of a peer in the book has its name', () => {
    const { screen } = show([{ ...bench().snapshot(), approvals: [approval], names: { [PEER]: 'alice' } }]);
    expect(screen()).toContain('‼ alice (ab12');
  });

  it('that is not there is said not to be', async () => {
    const { press } = show([bench().snapshot()]);
    await press('a', /nobody waits/);
  });
});

describe('several processes', () => {
  it('are in one table, each row with its pid', () => {
    const first = bench(1, { pid: 11 }).snapshot();
    const second = bench(1, { pid: 22, command: 'expose' }).snapshot();
    const { screen } = show([first, second], { columns: 120 });
    expect(screen()).toContain('2 processes');
    expect(screen()).toMatch(/› +1 +(11|22) {2}db/);
    expect(screen()).toMatch(/CHANNELS 2/);
  });

  it('that end, or send no news, are told of by their pids', () => {
    const stoppingUntil = new Date(Date.now() + 9500).toISOString();
    const first = { ...bench(0, { pid: 11 }).snapshot(), stoppingUntil };
    const second = { ...bench(0, { pid: 22 }).snapshot(), silentMs: 12_000 };
    const { screen } = show([first, second], { endsTunnel: false });
    expect(screen()).toMatch(/^ STOPPING 11, 9s at most {2}NO NEWS 22 for 12s {2}tunnel/);
    const own = show([first]);
    expect(own.screen()).toMatch(/^ STOPPING, 9s at most; q again ends now {2}tunnel/);
  });

  it('may all be gone', () => {
    const { screen } = show([]);
    expect(screen()).toContain('0 processes');
    expect(screen()).toContain('nobody is connected');
  });
});

it('measures what it draws itself without string-width, whose first call costs as much as a frame', async () => {
  vi.mocked(stringWidth).mockClear();
  const { press } = show([bench(2).snapshot()]);
  await press('?', /HELP/);
  await press('?', /▸CHANNELS/);
  await press('/', /type to filter/);
  expect(vi.mocked(stringWidth).mock.calls).toEqual([]);
});

it('leaves nobody subscribed when it is taken down', async () => {
  const { app, feed } = show([bench().snapshot()]);
  expect(await eventually(() => feed.listeners === 1)).toBe(true);
  app.unmount();
  expect(await eventually(() => feed.listeners === 0)).toBe(true);
});
