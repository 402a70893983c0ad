/** Which proxy the environment names, and for which relays. */
import { describe, expect, it } from 'vitest';
import {
  type Environment,
  isExcluded,
  proxyOf,
  type Relays,
  relayProxy,
  settleProxy,
} from '../../src/cli/proxy.js';

describe('the proxy', () => {
  it.each<[Environment, string | undefined, string]>([
    [{}, undefined, ''],
    [{ HTTPS_PROXY: 'http://b:2' }, 'HTTPS_PROXY', 'http://b:2/'],
    [{ HTTPS_PROXY: 'http://b:2', https_proxy: 'http://c:3' }, 'https_proxy', 'http://c:3/'],
    [{ HTTP_PROXY: 'http://a:1', HTTPS_PROXY: 'http://b:2' }, 'HTTPS_PROXY', 'http://b:2/'],
    [{ HTTP_PROXY: 'http://a:1' }, 'HTTP_PROXY', 'http://a:1/'],
    [{ http_proxy: 'http://a:1', all_proxy: 'http://d:4' }, 'http_proxy', 'http://a:1/'],
    [{ ALL_PROXY: 'http://d:4' }, 'ALL_PROXY', 'http://d:4/'],
    [{ https_proxy: 'proxy.test:3128' }, 'https_proxy', 'http://proxy.test:3128/'],
    [{ https_proxy: '', HTTP_PROXY: 'http://a:1' }, 'HTTP_PROXY', 'http://a:1/'],
    [{ all_proxy: 'socks5://s:1080' }, undefined, ''],
    [{ https_proxy: 'socks5://s:1080', http_proxy: 'https://a:1' }, 'http_proxy', 'https://a:1/'],
  ])('of %j is of %s', (env, variable, href) => {
    const proxy = proxyOf(env);
    expect(proxy?.variable).toBe(variable);
    expect(proxy?.url.href ?? '').toBe(href);
  });
});

describe('no_proxy', () => {
  it.each<[string, string, boolean]>([
    ['', 'https://relay.test', false],
    ['*', 'https://relay.test', true],
    ['relay.test', 'https://relay.test', true],
    ['RELAY.test', 'https://relay.TEST', true],
    ['relay.test.', 'https://relay.test', true],
    ['relay.test', 'https://relay.test.', true],
    ['test', 'https://relay.test', true],
    ['.test', 'https://relay.test', true],
    ['.relay.test', 'https://relay.test', true],
    ['*.test', 'https://relay.test', true],
    ['elay.test', 'https://relay.test', false],
    ['a, b  c,relay.test', 'https://relay.test', true],
    ['relay.test:443', 'https://relay.test', true],
    ['relay.test:443', 'https://relay.test:8443', false],
    ['relay.test:80', 'http://relay.test', true],
    ['192.0.2.7', 'https://192.0.2.7', true],
    ['192.0.2.7:3340', 'http://192.0.2.7:3340', true],
    ['192.0.2.7:3341', 'http://192.0.2.7:3340', false],
    ['192.0.2.0/24', 'https://192.0.2.7', true],
    ['192.0.2.8/29', 'https://192.0.2.7', false],
    ['192.0.2.0/33', 'https://192.0.2.7', false],
    ['192.0.2.0/x', 'https://192.0.2.7', false],
    ['2.7', 'https://192.0.2.7', false],
    ['2001:db8::7', 'http://[2001:db8:0::7]', true],
    ['[2001:db8::7]', 'http://[2001:db8::7]', true],
    ['[2001:db8::7]:80', 'http://[2001:db8::7]', true],
    ['[2001:db8::7]:81', 'http://[2001:db8::7]', false],
    ['2001:db8::/32', 'http://[2001:db8::7]', true],
    ['fd00::/8', 'http://[2001:db8::7]', false],
  ])('%j for %s: %s', (noProxy, url, excluded) => {
    expect(isExcluded(new URL(url), noProxy)).toBe(excluded);
  });

  it.each<[Relays, string, boolean]>([
    ['default', '', true],
    ['default', 'n0.iroh.link', false],
    ['none', '', false],
    [['https://a.test', 'https://b.test'], 'a.test', true],
    [['https://a.test', 'https://b.test'], 'a.test,b.test', false],
  ])('the relays %j with %j are reached through a proxy: %s', (relays, no_proxy, proxied) => {
    const env = { https_proxy: 'http://p:1', no_proxy };
    expect(relayProxy(relays, env) !== undefined).toBe(proxied);
  });

  it('in small letters comes before the other', () => {
    const env = { https_proxy: 'http://p:1', no_proxy: 'other.test', NO_PROXY: '*' };
    expect(relayProxy(['https://a.test'], env)?.variable).toBe('https_proxy');
  });
});

describe('the environment, settled for iroh', () => {
  it('has one variable that iroh reads, and keeps to it', () => {
    const env = { http_proxy: 'http://a:1', https_proxy: 'p:3128', no_proxy: 'x', PATH: '/bin' };
    settleProxy('default', env);
    const settled = {
      HTTPS_PROXY: 'http://p:3128/',
      ALL_PROXY: 'http://p:3128/',
      no_proxy: 'x',
      PATH: '/bin',
    };
    expect(env).toEqual(settled);
    settleProxy('default', Object.freeze(env));
    expect(env).toEqual(settled);
  });

  it('has none where all relays are excluded, and look-ups keep theirs', () => {
    const env = { HTTP_PROXY: 'http://a:1', NO_PROXY: '.test' };
    settleProxy(['https://relay.test'], env);
    expect(env).toEqual({ ALL_PROXY: 'http://a:1/', NO_PROXY: '.test' });
  });

  it('stays as it was without a proxy', () => {
    const env = { ALL_PROXY: 'socks5://s:1' };
    settleProxy('default', env);
    expect(env).toEqual({ ALL_PROXY: 'socks5://s:1' });
  });
});
