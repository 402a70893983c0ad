/** What `expose` says to people when it is ready. */
import { basename, relative } from 'node:path';
import { formatService, formatTarget, type Service } from '../tunnel/spec.js';
import { type Access, accessLines } from './who-may-connect.js';

export interface BannerFacts {
  readonly nodeId: string;
  readonly identityName: string;
  readonly created: boolean;
  readonly services: readonly Service[];
  readonly ticket: string;
  readonly access: Access;
  /** The name that everybody on the local network sees. */
  readonly announced?: string | undefined;
}

export function exposeBanner({
  nodeId,
  identityName,
  created,
  services,
  ticket,
  access,
  announced,
}: BannerFacts): readonly string[] {
  const specs = suggestedSpecs(services).join(' ');
  return [
    `node      ${nodeId}`,
    `identity  ${identityName} (${created ? 'new' : 'saved'})`,
    ...services.map(
      ({ name, target }, index) =>
        `${index === 0 ? 'offers  ' : '        '}  ${name} → ${formatTarget(target)}${target.protocol === 'udp' ? ' (UDP)' : ''}`,
    ),
    ...accessLines(access).map((line, index) => `${index === 0 ? 'allows    ' : '          '}${line}`),
    ...(announced === undefined
      ? []
      : [`shown     as '${announced}', with what it offers, to everybody on the local network`]),
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

/** As `forwardLine`, for a peer without a ticket. */
export function plainForwardLine(nodeId: string, specs: readonly string[]): string {
  return `${programName()} forward ${nodeId} ${specs.length === 0 ? '<service>' : specs.join(' ')}`;
}

/** What a forward of all of them is told. */
export function suggestedSpecs(services: readonly Service[]): readonly string[] {
  return services.map(({ name, target }) =>
    suggestedSpec(name, target.protocol, target.kind === 'unix' ? undefined : target.port),
  );
}

/** The spec that listens on the port the service has here; without one, on any. */
export function suggestedSpec(name: string, protocol: string, port: number | undefined): string {
  return formatService(String(port) === name ? name : `${port ?? 0}:${name}`, protocol);
}

/** How this program was started, so that the printed line can be run as it is. */
function programName(): string {
  const script = process.argv[1] ?? 'tunnel';
  if (basename(script) !== 'run.js') return 'tunnel';
  return `node ${relative(process.cwd(), script) || script}`;
}
