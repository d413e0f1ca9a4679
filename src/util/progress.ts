/** A progress bar with rate and time left on a terminal; a line now and then elsewhere. Writes to stderr only. */

const barWidth = 28;

export class Progress {
  private start = performance.now();
  private drawn = 0;
  private stage = "";

  constructor(
    private readonly unit: "bytes" | "items",
    private readonly out: { isTTY?: boolean; write(text: string): unknown } = process.stderr,
  ) {}

  /** A new `stage` starts its own clock. The last update (done = total) is always drawn. */
  update(stage: string, done: number, total: number): void {
    const now = performance.now();
    if (stage !== this.stage) this.begin(stage, now);
    const interval = this.out.isTTY ? 100 : 5000;
    if (done < total && now - this.drawn < interval) return;
    this.drawn = now;
    const line = this.line(done, total, (now - this.start) / 1000);
    if (this.out.isTTY) this.out.write(`\r\x1b[2K${line}${done >= total ? "\n" : ""}`);
    else if (done >= total || now - this.start > interval) this.out.write(`${line}\n`);
  }

  private begin(stage: string, now: number): void {
    this.stage = stage;
    this.start = now;
    this.drawn = now;
  }

  private line(done: number, total: number, seconds: number): string {
    const share = total > 0 ? Math.min(done / total, 1) : 1;
    const filled = Math.round(share * barWidth);
    const bar = "█".repeat(filled) + "░".repeat(barWidth - filled);
    const rate = seconds > 0 ? done / seconds : 0;
    const left =
      rate > 0 && done < total ? `, ${duration((total - done) / rate)} left` : `, ${duration(seconds)}`;
    return `${this.stage} ${bar} ${Math.floor(share * 100)}% ${this.amount(done)}/${this.amount(total)} ${this.amount(rate)}/s${left}`;
  }

  private amount(value: number): string {
    return this.unit === "bytes" ? bytesText(value) : String(Math.round(value));
  }
}

/** 1536 -> "1.5 KiB" */
export function bytesText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (bytes >= 1024 && power < units.length - 1) {
    bytes /= 1024;
    power++;
  }
  return `${power === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[power]}`;
}

/** 90 -> "1m30s" */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)}s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${String(whole % 60).padStart(2, "0")}s`;
  return `${Math.floor(whole / 3600)}h${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")}m`;
}
