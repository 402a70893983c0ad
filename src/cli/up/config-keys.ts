/** Every key that a config file of `tunnel up` may have, with a value as it is written. */
import type { Examples } from './toml-section.js';

const NETWORK_EXAMPLES: Examples = {
  bind: '"192.0.2.7"',
  congestion: '"bbr"',
  'resume-timeout': '"15m"',
};

export const COMMON_EXAMPLES: Examples = {
  identity: '"work"',
  relay: '["https://relay.example.org"]',
  'no-relay': 'true',
  lan: 'false',
  dns: 'false',
  dht: 'true',
  via: '"auto"',
  'share-stats': 'false',
  ...NETWORK_EXAMPLES,
};

export const SERVICES_EXAMPLE = '["db=5432", "web=localhost:3000", "dns=udp:53"]';
export const LISTEN_EXAMPLE = '["15432:db", "5353:dns/udp"]';

export const EXPOSE_EXAMPLES: Examples = {
  services: SERVICES_EXAMPLE,
  allow: '["alice"]',
  public: 'true',
  ask: 'true',
  'ask-timeout': '"5m"',
  'allow-speed': '["alice"]',
  announce: '"workshop"',
  ticket: 'false',
  'ticket-ttl': '"24h"',
  once: 'true',
  pair: 'true',
  webtransport: '"0.0.0.0:4433"',
  'limit-rate': '["10MB/s", "db=500kB/s", "peer:alice=2Mbit"]',
  ...NETWORK_EXAMPLES,
};

export const FORWARD_EXAMPLES: Examples = {
  peer: '"alice"',
  'ticket-file': '"alice.ticket"',
  listen: LISTEN_EXAMPLE,
  via: '"auto"',
  'reconnect-timeout': '"10m"',
  'udp-idle': '"2m"',
  'limit-rate': '["10MB/s", "db=500kB/s"]',
  ...NETWORK_EXAMPLES,
};
