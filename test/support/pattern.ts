/** Endless bytes that look random and follow from a seed: both ends of a test know every offset. */
import { type Cipher, createCipheriv, createHash } from 'node:crypto';

const zeros = Buffer.alloc(256 * 1024);

export class Pattern {
  readonly #cipher: Cipher;

  constructor(seed: string) {
    const key = createHash('sha256').update(seed).digest();
    this.#cipher = createCipheriv('aes-128-ctr', key.subarray(0, 16), key.subarray(16));
  }

  /** The next `length` bytes, at most 256 KiB. */
  next(length: number): Buffer {
    return this.#cipher.update(zeros.subarray(0, length));
  }
}

/** Compares what arrives with what was sent. */
export class PatternCheck {
  readonly #pattern: Pattern;
  #offset = 0;
  #wrongAt: number | undefined;

  constructor(seed: string) {
    this.#pattern = new Pattern(seed);
  }

  /** The first offset with a wrong byte, if there is one. */
  get wrongAt(): number | undefined {
    return this.#wrongAt;
  }

  accept(chunk: Buffer): void {
    for (let start = 0; start < chunk.length; start += zeros.length) {
      const piece = chunk.subarray(start, start + zeros.length);
      const expected = this.#pattern.next(piece.length);
      if (this.#wrongAt === undefined && !piece.equals(expected)) {
        this.#wrongAt = this.#offset + piece.findIndex((byte, index) => byte !== expected[index]);
      }
      this.#offset += piece.length;
    }
  }
}
