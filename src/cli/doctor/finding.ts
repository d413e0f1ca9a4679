/** One line of `koala doctor`: something that was looked at, whether it is as it should be, and the way out where it is not. */
export interface Finding {
  name: string;
  ok: boolean;
  text: string;
  /** The same for programs, in --json only. */
  values?: Record<string, unknown>;
}
