/** Outages of a minute, and short ones that the session itself survives. */
import { OVER_WEBTRANSPORT } from '../support/rig.js';
import { describeOutage } from './outage.js';

describeOutage('4 s without a path, silently', {
  begin: ({ network }) => network.cut(),
  end: ({ network }) => network.mend(),
  ms: 4_000,
  noticed: false,
});

describeOutage('60 s without a path, silently', {
  begin: ({ network }) => network.cut(),
  end: ({ network }) => network.mend(),
  ms: 60_000,
  noticed: true,
});

describeOutage('60 s with the link of the forward side down', {
  begin: ({ network }) => network.near.linkDown(),
  end: ({ network }) => network.near.linkUp(),
  ms: 60_000,
  noticed: true,
});

describeOutage('20 s with the link of the expose side down', {
  begin: ({ network }) => network.far.linkDown(),
  end: ({ network }) => network.far.linkUp(),
  ms: 20_000,
  noticed: true,
});

describeOutage('20 s without a path, silently, over WebTransport', {
  begin: ({ network }) => network.cut(),
  end: ({ network }) => network.mend(),
  ms: 20_000,
  noticed: true,
  rig: OVER_WEBTRANSPORT,
});
