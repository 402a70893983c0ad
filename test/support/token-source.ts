/** A source of rights without files: one token opens every service. */
import type { RightsSource } from '../../src/tunnel/policy.js';

export function tokenSource(token: string): RightsSource {
  const held = { current: () => ({ services: 'all', via: 'ticket' }) as const };
  return { admit: ({ tokens }) => (tokens.includes(token) ? held : undefined) };
}
