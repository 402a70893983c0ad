/** A path that is dead for longer than QUIC's own idle time (10 s), and comes back. */
import { describeOutage } from './outage.js';

describeOutage('12 s without a path, silently', {
  begin: ({ network }) => network.cut(),
  end: ({ network }) => network.mend(),
  ms: 12_000,
  noticed: true,
  bulk: { bytes: 40 * 1024 * 1024, bytesPerSecond: 16 * 1024 * 1024 },
});
