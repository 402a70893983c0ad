import type { OpenPath, Session } from './session.js';

/** The paths of a session that has one and no other. */
export function onlyPath({
  path,
  stats,
}: {
  path: Session['path'];
  stats: ReturnType<Session['stats']>;
}): OpenPath {
  const { congestionWindow, mtu, packetsSent, packetsLost, bytesSent, bytesReceived } = stats;
  return {
    ...path,
    local: '',
    selected: true,
    congestionWindow,
    mtu,
    packetsSent,
    packetsLost,
    bytesSent,
    bytesReceived,
  };
}
