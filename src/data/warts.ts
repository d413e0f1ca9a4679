/** Where Koala's own data and training differ from ours, each by name, so that a recipe can have all of them, none, or one.
 *  Always: without warts nothing of the original's faults is repeated; `compat = "koala"` has all of them.
 *  Sources: koala_data_pipeline (create_hf_data_v2.py, process_*.py) and EasyLM's data.py of April 2023. */

/** Each with what the original does, for tables and help. */
export const warts = {
  hh_split_anywhere: "HH transcripts are cut at every Human: and Assistant:, also inside a turn",
  hh_echo: "a question of HH without a reply becomes its own answer, with loss",
  negative_marker_everywhere:
    "the bad marker stands before all answers of a rejected side, also those that both sides share",
  loss_on_shared_turns: "answers that both sides share are trained on with each side",
  alpaca_space: "Alpaca's instruction and input are joined by one space",
  webgpt_spaces: "WebGPT's quotes end with a space, so that two stand before the marker",
  summary_phrases: "a post to be summarised may be called a news article",
  oig_no_background: "text before the first speaker of OIG's dialogues is dropped",
  keyword_substring: "keywords are found inside other words, too",
  repeat_before_split:
    "sources are repeated before the evaluation part is taken from them, so that it is in the training part",
  double_eos: "a second end-of-sequence token stands behind each example, with loss",
  no_bos: "examples have no begin-of-sequence token",
  stream_packing:
    "examples are laid end to end and cut into rows anywhere; a row is one document that begins with BOS, and later examples attend to earlier ones",
  row_mean_loss:
    "the loss is the mean over rows of each row's mean, so that a token of a row with few answers weighs more",
} as const;

export type Wart = keyof typeof warts;
export type Warts = Readonly<Record<Wart, boolean>>;

export const wartNames = Object.keys(warts) as Wart[];

/** Those of the compatibility mode, changed one by one. */
export function wartsOf(compat: "none" | "koala", changes: Partial<Record<Wart, boolean>> = {}): Warts {
  const all = Object.fromEntries(wartNames.map((name) => [name, changes[name] ?? compat === "koala"]));
  return all as Record<Wart, boolean>;
}

/** Whether curated data must be the original's records: only those can say these. */
export const needsRecords = (on: Warts): boolean =>
  on.negative_marker_everywhere || on.loss_on_shared_turns || on.double_eos;

/** The settings of a training recipe that repeat the warts of training. */
export function trainingSettings(on: Warts): { data: Record<string, string>; lossReduction: "row" | null } {
  return {
    data: {
      ...(on.no_bos ? { bos: "none" } : {}),
      ...(on.stream_packing ? { packing: "stream" } : {}),
    },
    lossReduction: on.row_mean_loss ? "row" : null,
  };
}
