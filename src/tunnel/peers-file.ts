/** The peers book in its file: read, changed as one step, and followed while a program runs. */
import { systemCode, TunnelError, toTunnelError } from '../error.js';
import { FileWatch } from './file-watch.js';
import { EMPTY_BOOK, EVERY_SERVICE, type PeerEntry, type PeersBook } from './peers-book.js';
import { editPeersBook, parsePeersBook } from './peers-toml.js';
import type { Held, Rights, RightsSource, ServiceSet } from './policy.js';
import { badFile, fileStamp, readSafeFile, type SafeFile, updateSafeFile } from './safe-file.js';

const MAX_BYTES = 1024 * 1024;
/** The machine's trouble, not the file's: it says nothing about who may connect. */
const PASSING: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'EIO', 'EAGAIN', 'EINTR']);

export class PeersFile {
  readonly #file: SafeFile;

  constructor(path: string) {
    this.#file = { path, what: 'peers book', maxBytes: MAX_BYTES };
  }

  get path(): string {
    return this.#file.path;
  }

  /** An empty book where there is no file. Throws BAD_STATE. */
  async read(): Promise<PeersBook> {
    return this.parse(await this.text());
  }

  /** As `read`, before it is understood: throws BAD_STATE only for a file that cannot be trusted or read. */
  text(): Promise<string | undefined> {
    return readSafeFile(this.#file);
  }

  /**
   * Changes the book as one step, and resolves with the new one when it is on the disk. A change that
   * answers the book it was given writes nothing. Throws BAD_STATE, OS_RESOURCE, and what `change` throws.
   */
  update(change: (book: PeersBook) => PeersBook): Promise<PeersBook> {
    return updateSafeFile(this.#file, (text) => {
      const before = this.parse(text);
      const after = change(before);
      if (after === before) return { result: after };
      return { text: editPeersBook(text ?? '', before, after), result: after };
    });
  }

  /** Differs when the file was changed. */
  stamp(): string {
    return fileStamp(this.#file.path);
  }

  /** Throws BAD_STATE. */
  parse(text: string | undefined): PeersBook {
    if (text === undefined) return EMPTY_BOOK;
    try {
      return parsePeersBook(text);
    } catch (error) {
      const { message } = error as Error;
      throw badFile(this.path, 'peers book', message, 'correct it, or move it away to begin a new one');
    }
  }
}

/** A book that follows its file. */
export class LiveBook {
  readonly #file: PeersFile;
  readonly #onError: (error: TunnelError) => void;
  readonly #listeners = new Set<() => void>();
  readonly #watch: FileWatch;
  #book: PeersBook;
  #byId: ReadonlyMap<string, Named>;
  /** Whoever wrote it may have been anyone: it takes rights away, and gives none. */
  #trusted = true;

  private constructor(
    file: PeersFile,
    book: PeersBook,
    stamp: string,
    onError: (error: TunnelError) => void,
  ) {
    this.#file = file;
    this.#onError = onError;
    this.#book = book;
    this.#byId = byId(book);
    this.#watch = new FileWatch({
      path: file.path,
      stamp: () => file.stamp(),
      known: stamp,
      onChange: () => this.#reload(),
    });
  }

  /** Throws BAD_STATE when it cannot be read. Later trouble goes to `onError`, once for each state of the file. */
  static async open(file: PeersFile, onError: (error: TunnelError) => void): Promise<LiveBook> {
    const stamp = file.stamp();
    return new LiveBook(file, await file.read(), stamp, onError);
  }

  get book(): PeersBook {
    return this.#book;
  }

  nameOf(nodeId: string): string | undefined {
    return this.#byId.get(nodeId)?.name;
  }

  /** Calls back when the book has changed. Answers what ends it. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** What the book says of who may connect here. */
  rights(): RightsSource {
    return {
      // Also for who is not in it yet: it may be put there while it is connected.
      admit: ({ peer }): Held => ({ current: () => this.#rightsOf(peer) }),
      denies: (peer) => serviceSet(this.#byId.get(peer)?.deny),
      onChange: (listener) => this.onChange(listener),
    };
  }

  /** Changes the file and follows at once. */
  async update(change: (book: PeersBook) => PeersBook): Promise<void> {
    this.#set(await this.#file.update(change));
    this.#trusted = true;
    this.#changed();
  }

  /** Resolves when what the file says now counts. */
  look(): Promise<void> {
    return this.#watch.look();
  }

  close(): void {
    this.#watch.close();
    this.#listeners.clear();
  }

  #rightsOf(peer: string): Rights | undefined {
    const allow = this.#trusted ? this.#byId.get(peer)?.allow : undefined;
    if (!allow) return undefined;
    const now = Date.now();
    const valid = [...allow].filter(([, until]) => until === undefined || now < until);
    const services = serviceSet(valid.map(([service]) => service));
    if (services === undefined) return undefined;
    const first = Math.min(...valid.map(([, until]) => until ?? Number.POSITIVE_INFINITY));
    return { services, via: 'book', ...(Number.isFinite(first) ? { expiresAtMs: first } : {}) };
  }

  /** Answers false where it is to be tried again. */
  async #reload(): Promise<boolean> {
    let text: string | undefined;
    try {
      text = await this.#file.text();
      this.#trusted = true;
    } catch (cause) {
      const error = toTunnelError(cause);
      if (PASSING.has(systemCode(error.cause) ?? systemCode(cause) ?? '')) return false;
      // A file that others could write lets nobody in; what it denied stays denied.
      this.#trusted = false;
      this.#tell(error, 'until that is mended it lets nobody in');
    }
    if (this.#trusted) this.#take(text);
    this.#changed();
    return true;
  }

  #set(book: PeersBook): void {
    this.#book = book;
    this.#byId = byId(book);
  }

  #changed(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  /** A slip of the pen changes nothing: what was read last goes on. */
  #take(text: string | undefined): void {
    try {
      this.#set(this.#file.parse(text));
    } catch (cause) {
      this.#tell(toTunnelError(cause), 'what it said before goes on');
    }
  }

  #tell({ code, message, hint }: TunnelError, meanwhile: string): void {
    this.#onError(new TunnelError(code, `${message}; ${meanwhile}`, { hint }));
  }
}

interface Named extends PeerEntry {
  readonly name: string;
}

function byId(book: PeersBook): ReadonlyMap<string, Named> {
  return new Map([...book].map(([name, entry]) => [entry.nodeId, { ...entry, name }]));
}

function serviceSet(services: Iterable<string> | undefined): ServiceSet | undefined {
  const set = new Set(services);
  if (set.size === 0) return undefined;
  return set.has(EVERY_SERVICE) ? 'all' : set;
}
