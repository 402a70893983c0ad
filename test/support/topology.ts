/**
 * An internet of a test's own: two sites behind NAT routers, and a public segment for relays.
 *
 *   left  10.78.1.2 ─┐                                                ┌─ 10.79.1.2 right
 *                    ├─ NAT 198.18.1.2 ──┐              ┌── 198.18.3.2 NAT
 *         10.78.1.3 ─┘                   │   internet   │
 *   neighbour                            ├─ 198.18.0.1 ─┤     two addresses for relays
 *   left  10.78.2.2 ── NAT 198.18.2.2 ───┘  198.18.0.2
 *        (second uplink, port-restricted, down at first)
 *
 * IPv4 alone, until a site is given IPv6: then 2001:db8:78::/64 is the left LAN's and 2001:db8:79::/64 the
 * right one's, with the same last parts, and RELAY_NAME leads to an address of each family.
 *
 * Needs root, `ip` and `iptables`, as `netns.ts`, and is cleaned up like that.
 */

import { Host } from './netns.js';
import { execute, PREFIX, removeNamespace, removeStale, watch } from './netns-cleanup.js';

/**
 * `none` passes everything on, addresses unchanged (the internet knows the way back).
 * `full-cone`: one port outside for a port inside, open to everybody.
 * `port-restricted`: one port outside for a port inside, open to those who were sent something.
 * `symmetric`: another port outside for every destination.
 */
export type NatKind = 'none' | 'full-cone' | 'port-restricted' | 'symmetric';

export const RELAY_ADDRESSES = ['198.18.0.1', '198.18.0.2'] as const;
/** What the hosts call the first of them where there is IPv6, since no relay with TLS is named by such an address. */
export const RELAY_NAME = 'relay.test';
const RELAY_IPV6 = '2001:db8::1';

interface SiteOptions {
  readonly id: string;
  /** Of the hosts, without the last byte. */
  readonly lan: string;
  /** Between the router and the internet, without the last byte. */
  readonly wan: string;
  /** The same two of IPv6, without what follows `::`. */
  readonly lan6: string;
  readonly wan6: string;
}

/** A router and what is behind it. */
export class Site {
  readonly host: Host;
  /** On the same LAN. */
  readonly neighbour: Host;
  readonly router: Host;
  readonly #options: SiteOptions;
  #nat: NatKind = 'none';
  #udpDropped = false;

  constructor(options: SiteOptions) {
    this.#options = options;
    this.host = new Host(`${options.id}-host`, options.lan);
    this.neighbour = new Host(`${options.id}-next`, options.lan);
    this.router = new Host(`${options.id}-router`, options.wan);
  }

  get hosts(): readonly Host[] {
    return [this.host, this.neighbour, this.router];
  }

  /** The router's own, on the internet. */
  get publicAddress(): string {
    return `${this.#options.wan}.2`;
  }

  async setUp(internet: Host): Promise<void> {
    const { lan, wan } = this.#options;
    for (const host of this.hosts) await addNamespace(host);
    await this.router.run('ip', ['link', 'add', 'lan', 'type', 'bridge']);
    await this.router.run('ip', ['addr', 'add', `${lan}.1/24`, 'dev', 'lan']);
    await this.router.run('ip', ['link', 'set', 'lan', 'up']);
    for (const [index, host] of [this.host, this.neighbour].entries()) {
      await cable(host, 'net0', this.router, `lan${index}`);
      await this.router.run('ip', ['link', 'set', `lan${index}`, 'master', 'lan']);
      await joinLan(host, 'net0', `${lan}.${index + 2}`, `${lan}.1`);
    }
    await cable(this.router, 'wan', internet, toSite(lan));
    await internet.run('ip', ['addr', 'add', `${wan}.1/24`, 'dev', toSite(lan)]);
    await joinLan(this.router, 'wan', `${wan}.2`, `${wan}.1`);
    await internet.run('ip', ['route', 'add', `${lan}.0/24`, 'via', `${wan}.2`]);
    await this.#apply();
  }

  /**
   * Gives the whole site IPv6 as well. There is no NAT for it, but the router lets in what `nat` lets in: with
   * any but `none` and `full-cone` only those who were sent something.
   */
  async joinIpv6(internet: Host): Promise<void> {
    const { lan, lan6, wan6 } = this.#options;
    const uplink = toSite(lan);
    for (const host of [...this.hosts, internet]) {
      await host.run('sh', [
        '-c',
        'cd /proc/sys/net/ipv6/conf/all; echo 0 > disable_ipv6; echo 1 > forwarding',
      ]);
    }
    await addIpv6(this.router, 'lan', `${lan6}::1`);
    for (const [index, host] of [this.host, this.neighbour].entries()) {
      await addIpv6(host, 'net0', `${lan6}::${index + 2}`, `${lan6}::1`);
    }
    await addIpv6(internet, uplink, `${wan6}::1`);
    await addIpv6(this.router, 'wan', `${wan6}::2`, `${wan6}::1`);
    await internet.run('ip', ['route', 'add', `${lan6}::/64`, 'via', `${wan6}::2`]);
  }

  async nat(kind: NatKind): Promise<void> {
    this.#nat = kind;
    await this.#apply();
  }

  /** Lets no UDP through, either way, without a word. */
  async dropUdp(dropped: boolean): Promise<void> {
    this.#udpDropped = dropped;
    await this.#apply();
  }

  /** All rules anew. Flows that the router remembers keep the ports that they have. */
  async #apply(): Promise<void> {
    const dropped = this.#udpDropped ? ['-A FORWARD -p udp -j DROP'] : [];
    const { nat, filter } = natRules(this.#nat, `${this.#options.lan}.2`);
    await applyRules(this.router, { nat, filter: [...dropped, ...filter] });
  }
}

export class Topology {
  readonly internet: Host;
  readonly left: Site;
  readonly right: Site;
  /** The way to the internet that the left host can change to. */
  readonly secondUplink: Host;

  private constructor(id: string) {
    this.internet = new Host(`${id}-inet`, '198.18.0');
    this.left = new Site({
      ...{ id: `${id}-l`, lan: '10.78.1', wan: '198.18.1' },
      ...{ lan6: '2001:db8:78', wan6: '2001:db8:1' },
    });
    this.right = new Site({
      ...{ id: `${id}-r`, lan: '10.79.1', wan: '198.18.3' },
      ...{ lan6: '2001:db8:79', wan6: '2001:db8:3' },
    });
    this.secondUplink = new Host(`${id}-up2`, '198.18.2');
  }

  static async create(): Promise<Topology> {
    removeStale();
    watch();
    topologies += 1;
    const topology = new Topology(`${PREFIX}${process.pid}-t${topologies}`);
    try {
      await topology.#setUp();
    } catch (error) {
      await topology.dispose();
      throw error;
    }
    return topology;
  }

  async #setUp(): Promise<void> {
    const { internet, left, right, secondUplink } = this;
    await addNamespace(internet);
    for (const address of RELAY_ADDRESSES) {
      await internet.run('ip', ['addr', 'add', `${address}/32`, 'dev', 'lo']);
    }
    await left.setUp(internet);
    await right.setUp(internet);
    await addNamespace(secondUplink);
    await cable(left.host, 'net1', secondUplink, 'lan');
    await secondUplink.run('ip', ['addr', 'add', '10.78.2.1/24', 'dev', 'lan']);
    await cable(secondUplink, 'wan', internet, 'to-uplink2');
    await internet.run('ip', ['addr', 'add', '198.18.2.1/24', 'dev', 'to-uplink2']);
    await joinLan(secondUplink, 'wan', '198.18.2.2', '198.18.2.1');
    await applyRules(secondUplink, natRules('port-restricted', '10.78.2.2'));
    await left.host.run('ip', ['link', 'set', 'net1', 'down']);
  }

  /** The left host leaves its network and joins the other one: another address, another router, another NAT. */
  async changeUplink(): Promise<void> {
    const { host } = this.left;
    // A packet from the old address through the new NAT would take the port that the new one is to have.
    await host.run('ip', ['addr', 'flush', 'dev', 'net0']);
    await host.run('ip', ['link', 'set', 'net0', 'down']);
    await joinLan(host, 'net1', '10.78.2.2', '10.78.2.1');
  }

  /** Both sites and the internet get IPv6, and the left host has nothing else from then on. */
  async leftIpv6Only(): Promise<void> {
    const { internet, left, right } = this;
    for (const site of [left, right]) await site.joinIpv6(internet);
    await internet.run('ip', ['addr', 'add', `${RELAY_IPV6}/128`, 'dev', 'lo', 'nodad']);
    for (const host of [left.host, left.neighbour, right.host]) {
      host.names(`${RELAY_ADDRESSES[0]} ${RELAY_NAME}\n${RELAY_IPV6} ${RELAY_NAME}\n`);
    }
    await left.host.run('ip', ['-4', 'addr', 'flush', 'dev', 'net0']);
  }

  /** Removes everything, and ends what still runs in there. Idempotent. */
  async dispose(): Promise<void> {
    const hosts = [...this.left.hosts, ...this.right.hosts, this.secondUplink, this.internet];
    await Promise.all(hosts.map((host) => host.dispose()));
    for (const { namespace } of hosts) removeNamespace(namespace);
  }
}

let topologies = 0;

interface Rules {
  readonly nat: readonly string[];
  readonly filter: readonly string[];
}

/** `inside`: whom a full cone sends everything to. */
function natRules(kind: NatKind, inside: string): Rules {
  if (kind === 'none') return { nat: [], filter: [] };
  const masquerade = '-A POSTROUTING -o wan -j MASQUERADE';
  if (kind === 'full-cone')
    return {
      nat: [`-A PREROUTING -i wan -p udp -j DNAT --to-destination ${inside}`, masquerade],
      filter: [],
    };
  return {
    nat: [
      `-A POSTROUTING -o wan -p udp -j MASQUERADE${kind === 'symmetric' ? ' --random-fully' : ''}`,
      masquerade,
    ],
    filter: [
      '-A FORWARD -i wan -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT',
      '-A FORWARD -i wan -j DROP',
      // A packet that comes too early must not make the router remember a flow that way round.
      '-A INPUT -i wan -p udp -j DROP',
    ],
  };
}

async function applyRules(router: Host, { nat, filter }: Rules): Promise<void> {
  const natTable = ['*nat', ':PREROUTING ACCEPT [0:0]', ':POSTROUTING ACCEPT [0:0]', ...nat, 'COMMIT'];
  const filterTable = ['*filter', ':FORWARD ACCEPT [0:0]', ...filter, 'COMMIT'];
  const restore = (program: string, tables: readonly string[]) =>
    router.run(program, ['-w'], [...tables, ''].join('\n'));
  await restore('iptables-restore', [...natTable, ...filterTable]);
  await restore('ip6tables-restore', filterTable);
}

async function addNamespace(host: Host): Promise<void> {
  await execute('ip', ['netns', 'add', host.namespace]);
  await host.run('sh', [
    '-c',
    'ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || true',
  ]);
}

/** Both ends are up when it resolves. */
async function cable(one: Host, device: string, other: Host, otherDevice: string): Promise<void> {
  await execute('ip', [
    ...['-n', one.namespace, 'link', 'add', 'name', device, 'type', 'veth'],
    ...['peer', 'name', otherDevice, 'netns', other.namespace],
  ]);
  await one.run('ip', ['link', 'set', device, 'up']);
  await other.run('ip', ['link', 'set', otherDevice, 'up']);
}

async function joinLan(host: Host, device: string, address: string, gateway: string): Promise<void> {
  await host.run('ip', ['addr', 'replace', `${address}/24`, 'dev', device]);
  await host.run('ip', ['link', 'set', device, 'up']);
  await host.run('ip', ['route', 'replace', 'default', 'via', gateway]);
}

/** Without the second that it otherwise takes to see whether nobody else has the address. */
async function addIpv6(host: Host, device: string, address: string, gateway?: string): Promise<void> {
  await host.run('ip', ['addr', 'add', `${address}/64`, 'dev', device, 'nodad']);
  if (gateway !== undefined) await host.run('ip', ['route', 'replace', 'default', 'via', gateway]);
}

/** The internet's device towards a site. */
function toSite(lan: string): string {
  return `to-${lan.replaceAll('.', '-')}`;
}
