/** A relay behind the HTTP proxy of the environment. */
import { once } from 'node:events';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ConnectProxy } from '../support/connect-proxy.js';
import { eventually } from '../support/eventually.js';
import { dial, listen } from '../support/sockets.js';
import { Machine } from '../support/tunnel-process.js';

const machines: Machine[] = [];
let proxy: ConnectProxy;
/** One for all: what matters is who asks for it through which proxy. */
let relays: Machine;
let relay: string;

function machine(env: Readonly<Record<string, string>> = {}): Machine {
  const made = new Machine({ env });
  machines.push(made);
  return made;
}

beforeAll(async () => {
  relays = new Machine();
  const process = relays.startAs('relay', '--listen', '127.0.0.1:0', '--json');
  relay = (await process.event('ready')).url as string;
});

afterAll(() => relays.dispose());

beforeEach(async () => {
  proxy = await ConnectProxy.start();
});

afterEach(async () => {
  for (const made of machines.splice(0).reverse()) await made.dispose();
  await proxy.close();
});

/** The two have no address family in common, so they have nothing but the relay. The expose knows no proxy. */
async function throughRelay(
  env: Readonly<Record<string, string>>,
  more: readonly string[] = [],
): Promise<string> {
  const echo = await listen((socket) => socket.pipe(socket));
  const flags = ['--relay', relay, '--json'];
  const expose = machine().startAs('expose', `${echo.port}`, '--bind', '127.0.0.1', ...flags);
  const ticket = (await expose.event('ready')).ticket as string;
  const forward = machine(env).startAs(
    'forward',
    ticket,
    `0:${echo.port}`,
    '--bind',
    '::1',
    ...flags,
    ...more,
  );
  const port = await forward.listeningPort();
  expect(await forward.event('session', { state: 'connected' })).toMatchObject({ path: 'iroh-relay' });
  const app = await dial(port);
  app.write('there and back');
  const [answer] = (await once(app, 'data')) as [Buffer];
  app.destroy();
  await echo.close();
  return answer.toString();
}

describe('a forward', () => {
  it.each(['HTTP_PROXY', 'https_proxy', 'ALL_PROXY'])('reaches its relay through %s', async (variable) => {
    expect(await throughRelay({ [variable]: proxy.url, no_proxy: 'other.test,127.0.0.1:1' })).toBe(
      'there and back',
    );
    expect(proxy.asked).toContain(new URL(relay).host);
  });

  it.each([
    ['NO_PROXY', () => '127.0.0.1'],
    ['no_proxy', () => 'other.test, 127.0.0.0/8'],
    ['no_proxy', () => new URL(relay).host],
  ])('does not where %s excludes it, and still looks peers up through it', async (variable, value) => {
    const env = { HTTP_PROXY: proxy.url, [variable]: value() };
    expect(await throughRelay(env)).toBe('there and back');
    expect(await eventually(() => proxy.asked.includes('dns.iroh.link:443'))).toBe(true);
    expect(proxy.asked).not.toContain(new URL(relay).host);
  });

  it('asks for its relay alone with --no-dns', async () => {
    expect(await throughRelay({ https_proxy: proxy.url }, ['--no-dns'])).toBe('there and back');
    expect([...new Set(proxy.asked)]).toEqual([new URL(relay).host]);
  });

  it('asks nobody through it where everything is excluded', async () => {
    expect(await throughRelay({ https_proxy: proxy.url, no_proxy: '*' })).toBe('there and back');
    expect(proxy.asked).toEqual([]);
  });
});

it('doctor tells which', async () => {
  const doctor = async (env: Readonly<Record<string, string>>) => {
    const { stdout } = await machine(env).run('doctor', '--json', '--no-lan', '--relay', relay);
    const checks = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    return checks.find(({ name }) => name === 'proxy');
  };
  expect(await doctor({ https_proxy: proxy.url })).toMatchObject({
    ok: true,
    detail: `https_proxy: relays are reached through ${new URL(proxy.url).host}`,
  });
  expect(await doctor({ https_proxy: proxy.url, no_proxy: '127.0.0.1' })).toMatchObject({
    ok: true,
    detail: 'https_proxy is set, and no_proxy excludes every relay',
  });
});
