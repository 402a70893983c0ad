/** What `expose` says to people when it is ready. */
import { basename, relative } from 'node:path';
import { formatTarget, type Service } from '../tunnel/spec.js';
import { type Access, accessLines } from './who-may-connect.js';

export interface BannerFacts {
  readonly nodeId: string;
  readonly identityName: string;
  readonly created: boolean;
  readonly services: readonly Service[];
  readonly ticket: string;
  readonly access: Access;
}

export function exposeBanner({
  nodeId,
  identityName,
  created,
  services,
  ticket,
  access,
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
    ...accessLines(access).map((line, index) => `${index === 0 ? 'allows    ' : '          '}${line}`),
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

/** How this program was started, so that the printed line can be run as it is. */
function programName(): string {
  const script = process.argv[1] ?? 'tunnel';
  if (basename(script) !== 'run.js') return 'tunnel';
  return `node ${relative(process.cwd(), script) || script}`;
}
