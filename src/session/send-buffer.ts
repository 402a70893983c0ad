/**
 * What one direction of a channel still has to answer for: bytes not sent yet, and bytes sent that the
 * peer has not consumed. References, not copies; absolute offsets, so that sending can begin again
 * anywhere above what is acknowledged, on another carrier.
 */
export class SendBuffer {
  /** Holes at the front are cut off when there are more of them than chunks. */
  #chunks: Buffer[] = [];
  #head = 0;
  /** Offset of the first byte of the first chunk. */
  #headOffset = 0;
  /** The next chunk to send from, the offset in it, and that offset from the channel's start. */
  #next = 0;
  #within = 0;
  #sent = 0;
  #end = 0;

  /** Offset behind the last byte given to `take`'s callers. */
  get sent(): number {
    return this.#sent;
  }

  /** Offset behind the last byte pushed. */
  get end(): number {
    return this.#end;
  }

  get unsentBytes(): number {
    return this.#end - this.#sent;
  }

  /** Bytes whose memory is still referenced. */
  get heldBytes(): number {
    return this.#end - this.#headOffset;
  }

  /** `chunk` must not be changed afterwards. */
  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#end += chunk.length;
  }

  /** The next bytes to send, at most `limit` of them and from one chunk; they count as sent. */
  take(limit: number): Buffer {
    const chunk = this.#chunks[this.#next] as Buffer;
    const left = chunk.length - this.#within;
    if (left > limit) {
      const piece = chunk.subarray(this.#within, this.#within + limit);
      this.#within += limit;
      this.#sent += limit;
      return piece;
    }
    const piece = this.#within === 0 ? chunk : chunk.subarray(this.#within);
    this.#next += 1;
    this.#within = 0;
    this.#sent += left;
    return piece;
  }

  /** Lets go of the chunks below `offset`. */
  release(offset: number): void {
    while (this.#head < this.#next) {
      const end = this.#headOffset + (this.#chunks[this.#head] as Buffer).length;
      if (end > offset) break;
      // Let go of the memory now, of the place later.
      this.#chunks[this.#head] = EMPTY;
      this.#head += 1;
      this.#headOffset = end;
    }
    if (this.#head <= 32 || this.#head * 2 < this.#chunks.length) return;
    this.#chunks = this.#chunks.slice(this.#head);
    this.#next -= this.#head;
    this.#head = 0;
  }

  /** Sending begins again at `offset`. Answers false where those bytes have been let go of. */
  rewind(offset: number): boolean {
    if (offset < this.#headOffset || offset > this.#sent) return false;
    let at = this.#headOffset;
    let index = this.#head;
    while (at < offset) {
      const { length } = this.#chunks[index] as Buffer;
      if (at + length > offset) break;
      at += length;
      index += 1;
    }
    this.#next = index;
    this.#within = offset - at;
    this.#sent = offset;
    return true;
  }

  clear(): void {
    this.#chunks = [];
    this.#head = 0;
    this.#next = 0;
    this.#within = 0;
    this.#headOffset = this.#sent;
    this.#end = this.#sent;
  }
}

const EMPTY = Buffer.alloc(0);
