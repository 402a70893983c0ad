/** Makes a network with a process in it, says its name, and waits to be killed. */
import { Network } from './netns.js';

const network = await Network.create();
network.far.spawn('sleep', ['1000']);
process.stdout.write(`${network.far.namespace}\n`);
setInterval(() => undefined, 1000);
