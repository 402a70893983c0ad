/** TCP sockets of a network namespace in the hands of the test process, by way of a helper inside. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Server, Socket } from 'node:net';
import { fileURLToPath } from 'node:url';

const AGENT = fileURLToPath(new URL('./netns-agent.js', import.meta.url));

/** The test process's hand in a namespace. */
export class Agent {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: AgentAnswer, handle: unknown) => void>();
  #lastId = 0;

  constructor(namespace: string) {
    this.#child = spawn('ip', ['netns', 'exec', namespace, process.execPath, AGENT], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.#child.on('message', (answer: AgentAnswer, handle) =>
      this.#waiting.get(answer.id)?.(answer, handle),
    );
    this.#child.on('exit', () => {
      for (const [id, resolve] of this.#waiting) resolve({ id, error: 'EAGENT' }, undefined);
    });
    this.#child.unref();
    this.#child.channel?.unref();
  }

  dial(port: number): Promise<Socket> {
    return this.#ask({ op: 'dial', port }, (_answer, handle) => {
      const socket = handle as Socket;
      socket.allowHalfOpen = true;
      socket.setNoDelay(true);
      socket.on('error', () => undefined);
      return socket;
    });
  }

  listen(): Promise<{ server: Server; port: number }> {
    let server: Server | undefined;
    let port = 0;
    return this.#ask({ op: 'listen' }, (answer, handle) => {
      if (handle) {
        server = handle as Server;
        port = answer.port ?? 0;
      }
      // The agent has let go of its own copy: from now on every connection comes here.
      return answer.done && server ? { server, port } : undefined;
    });
  }

  async dispose(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }

  #ask<T>(
    request: { readonly op: string; readonly port?: number },
    take: (answer: AgentAnswer, handle: unknown) => T | undefined,
  ): Promise<T> {
    this.#lastId += 1;
    const id = this.#lastId;
    this.#child.channel?.ref();
    return new Promise((resolve, reject) => {
      const done = () => {
        this.#waiting.delete(id);
        if (this.#waiting.size === 0) this.#child.channel?.unref();
      };
      this.#waiting.set(id, (answer, handle) => {
        if (answer.error !== undefined) {
          done();
          reject(Object.assign(new Error(`${request.op} failed: ${answer.error}`), { code: answer.error }));
          return;
        }
        const taken = take(answer, handle);
        if (taken === undefined) return;
        done();
        resolve(taken);
      });
      this.#child.send({ id, ...request });
    });
  }
}

interface AgentAnswer {
  readonly id: number;
  readonly port?: number;
  readonly done?: boolean;
  readonly error?: string;
}
