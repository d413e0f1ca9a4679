/** Follows the frames of a zstd stream without decompressing it, to know whether it ended where a frame ends: the decompressor
 *  takes the end of a truncated file for the end of its data.
 *  Source: RFC 8878, section 3.1. */

type State = "magic" | "skip-size" | "descriptor" | "block" | "bytes";

export class ZstdFrames {
  private state: State = "magic";
  private readonly field = new Uint8Array(4);
  /** Bytes of the field that is being read, and how many have come. */
  private wanted = 4;
  private have = 0;
  /** Bytes to pass over, and what comes then. */
  private left = 0;
  private next: State = "magic";
  private hasChecksum = false;

  /** True between two frames. */
  get complete(): boolean {
    return this.state === "magic" && this.have === 0;
  }

  push(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      if (this.state === "bytes") {
        const passed = Math.min(this.left, bytes.length - at);
        at += passed;
        this.left -= passed;
        if (this.left === 0) this.read(this.next);
      } else {
        this.field[this.have++] = bytes[at++]!;
        if (this.have === this.wanted) this.fieldRead();
      }
    }
  }

  private read(state: State): void {
    this.state = state;
    this.have = 0;
    this.wanted = state === "descriptor" ? 1 : state === "block" ? 3 : 4;
  }

  private pass(bytes: number, next: State): void {
    this.read(bytes === 0 ? next : "bytes");
    [this.left, this.next] = [bytes, next];
  }

  private fieldRead(): void {
    const [a, b, c, d] = this.field as unknown as [number, number, number, number];
    const four = (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
    if (this.state === "magic")
      this.read((four & 0xfffffff0) >>> 0 === 0x184d2a50 ? "skip-size" : "descriptor");
    else if (this.state === "skip-size") this.pass(four, "magic");
    else if (this.state === "descriptor") this.frameHeader(a);
    else this.block(a | (b << 8) | (c << 16));
  }

  private frameHeader(descriptor: number): void {
    const singleSegment = (descriptor >> 5) & 1;
    const contentSize = [singleSegment, 2, 4, 8][descriptor >> 6]!;
    const dictionaryId = [0, 1, 2, 4][descriptor & 3]!;
    this.hasChecksum = (descriptor & 4) !== 0;
    this.pass(1 - singleSegment + dictionaryId + contentSize, "block");
  }

  /** One bit: the last block; two: its type, of which a repeated byte (1) is stored as one; the rest: its size. */
  private block(header: number): void {
    const last = (header & 1) === 1;
    const size = ((header >> 1) & 3) === 1 ? 1 : header >> 3;
    this.pass(size + (last && this.hasChecksum ? 4 : 0), last ? "magic" : "block");
  }
}
