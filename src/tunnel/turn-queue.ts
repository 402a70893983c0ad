/** A binary heap: the lowest key first. Equal keys in no order of their own. */
export class TurnQueue<T> {
  readonly #keys: number[] = [];
  readonly #items: T[] = [];

  get size(): number {
    return this.#items.length;
  }

  push(key: number, item: T): void {
    let at = this.#items.length;
    this.#keys.push(key);
    this.#items.push(item);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((this.#keys[parent] as number) <= key) return;
      this.#swap(at, parent);
      at = parent;
    }
  }

  pop(): T | undefined {
    const first = this.#items[0];
    const key = this.#keys.pop();
    const last = this.#items.pop();
    if (key === undefined || last === undefined || this.#items.length === 0) return first;
    this.#keys[0] = key;
    this.#items[0] = last;
    this.#sink();
    return first;
  }

  #sink(): void {
    const keys = this.#keys as readonly number[];
    for (let at = 0; ; ) {
      const left = 2 * at + 1;
      if (left >= keys.length) return;
      const right = left + 1;
      const least = right < keys.length && (keys[right] as number) < (keys[left] as number) ? right : left;
      if ((keys[at] as number) <= (keys[least] as number)) return;
      this.#swap(at, least);
      at = least;
    }
  }

  #swap(a: number, b: number): void {
    const [key, item] = [this.#keys[a] as number, this.#items[a] as T];
    this.#keys[a] = this.#keys[b] as number;
    this.#items[a] = this.#items[b] as T;
    this.#keys[b] = key;
    this.#items[b] = item;
  }
}
