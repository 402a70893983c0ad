/** What `expose` says to people when it is ready. */
import { basename, relative } from 'node:path';
import { formatTarget, type Service } from '../tunnel/spec.js';
import type { TicketRecord } from '../tunnel/ticket-records.js';
import { localTime } from './ticket-text.js';

export interface BannerFacts {
  readonly nodeId: string;
  readonly identityName: string;
  readonly created: boolean;
  readonly services: readonly Service[];
  readonly ticket: string;
  /** Of the ticket; undefined where it only carries addresses. */
  readonly record: TicketRecord | undefined;
}

export function exposeBanner({
  nodeId,
  identityName,
  created,
  services,
  ticket,
  record,
}: BannerFacts): readonly string[] {
  const specs = services
    .map(({ name, target }) =>
      suggestedSpec(name, target.protocol, target.kind === 'unix' ? undefined : target.port),
    )
    .join(' ');
  return [
    `node      ${nodeId}`,
    `identity  ${identityName} (${created ? 'new' : 'saved'})`,
    ...services.map(
      ({ name, target }, index) =>
        `${index === 0 ? 'offers  ' : '        '}  ${name} → ${formatTarget(target)}${target.protocol === 'udp' ? ' (UDP)' : ''}`,
    ),
    `allows    ${allows(record)}`,
    '',
    'On the other machine run:',
    '',
    `  ${forwardLine(ticket, specs)}`,
    '',
  ];
}

/** Exactly what to run on the other machine. */
export function forwardLine(ticket: string, specs: string): string {
  return `${programName()} forward '${ticket}' ${specs}`;
}

/** The spec that listens on the port the service has here; without one, on any. */
export function suggestedSpec(name: string, protocol: string, port: number | undefined): string {
  const suffix = protocol === 'udp' ? '/udp' : '';
  return (String(port) === name ? name : `${port ?? 0}:${name}`) + suffix;
}

function allows(record: TicketRecord | undefined): string {
  if (!record) return "whoever has a ticket of 'tunnel ticket create'; nobody else";
  const whom = record.once ? 'the first to use the ticket below' : 'whoever has the ticket below';
  const until = record.expiresAt === undefined ? '' : ` until ${localTime(record.expiresAt)}`;
  const paired = record.pair ? '; the first to use it is remembered' : '';
  return `${whom}${until}, so treat it as a password; nobody else${paired}`;
}

/** How this program was started, so that the printed line can be run as it is. */
function programName(): string {
  const script = process.argv[1] ?? 'tunnel';
  if (basename(script) !== 'run.js') return 'tunnel';
  return `node ${relative(process.cwd(), script) || script}`;
}
