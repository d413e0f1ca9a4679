/** The 13 categories of OpenAI's moderation API, and the eight letters of its published samples
 *  (Markov et al., "A Holistic Approach to Undesired Content Detection in the Real World", 2022). */

export const categories = [
  "harassment",
  "harassment/threatening",
  "hate",
  "hate/threatening",
  "illicit",
  "illicit/violent",
  "self-harm",
  "self-harm/instructions",
  "self-harm/intent",
  "sexual",
  "sexual/minors",
  "violence",
  "violence/graphic",
] as const;
export type Category = (typeof categories)[number];

export const isCategory = (name: string): name is Category =>
  (categories as readonly string[]).includes(name);

/** Letter in the samples to category. */
export const letters = {
  S: "sexual",
  H: "hate",
  V: "violence",
  HR: "harassment",
  SH: "self-harm",
  S3: "sexual/minors",
  H2: "hate/threatening",
  V2: "violence/graphic",
} as const satisfies Record<string, Category>;
export type Letter = keyof typeof letters;
export const labelled: readonly (typeof letters)[Letter][] = Object.values(letters);
