/** The command line: one verb a file, loaded when it is called. Errors are one sentence on stderr and exit code 1. */
import { Command, Help, type Option } from "commander";
import { version } from "../util/version.ts";

const verbs = [
  "serve",
  "chat",
  "generate",
  "bench",
  "doctor",
  "convert",
  "diff",
  "import",
  "export",
  "card",
  "data",
  "train",
  "plan",
  "eval",
  "keys",
  "study",
  "moderate",
  "flags",
] as const;

/** Each verb file exports this. */
export interface VerbModule {
  /** Adds the verb with its flags to the program. */
  register(program: Command): void;
}

const modules: Record<
  (typeof verbs)[number] | "engine" | "engine-rank" | "rank" | "train-job",
  () => Promise<VerbModule>
> = {
  serve: () => import("./serve.ts"),
  chat: () => import("./chat.ts"),
  generate: () => import("./generate.ts"),
  bench: () => import("./bench.ts"),
  doctor: () => import("./doctor.ts"),
  convert: () => import("./convert.ts"),
  diff: () => import("./diff.ts"),
  import: () => import("./import.ts"),
  export: () => import("./export.ts"),
  card: () => import("./card.ts"),
  data: () => import("./data.ts"),
  train: () => import("./train.ts"),
  plan: () => import("./plan.ts"),
  eval: () => import("./eval.ts"),
  keys: () => import("./keys.ts"),
  study: () => import("./study.ts"),
  moderate: () => import("./moderate.ts"),
  flags: () => import("./flags.ts"),
  engine: () => import("./engine.ts"),
  "engine-rank": () => import("./engine_rank.ts"),
  rank: () => import("./rank.ts"),
  "train-job": () => import("./train_job.ts"),
};

export async function main(args: string[]): Promise<void> {
  const wanted = args[0] ?? "";
  const program = new Command("koala")
    .description("Serve LLaMA-family chat models behind the OpenAI API, from one executable.")
    .version(version, "-v, --version", "print the version and exit")
    .helpOption("-h, --help", "print this help and exit")
    .configureHelp({ optionDescription: describeOption })
    .configureOutput({ outputError: (text, write) => write(`koala: ${usageSentence(text, wanted)}\n`) });
  const names = isVerb(wanted) ? [wanted] : verbs;
  for (const name of names) (await modules[name]()).register(program);
  if (args.length === 0) return program.outputHelp();
  await program.parseAsync(args, { from: "user" });
}

/** As commander does, but "(default: 1,8)" for a list, and nothing for an empty one and for false. */
function describeOption(option: Option): string {
  const { defaultValue: value } = option;
  const text = Array.isArray(value) ? value.join(",") : value === false ? "" : null;
  if (text === null) return new Help().optionDescription(option);
  return text === "" ? option.description : `${option.description} (default: ${text})`;
}

/** commander's complaint ("error: unknown option '--prot'\n(Did you mean --port?)") as one line with the way out. */
function usageSentence(text: string, verb: string): string {
  const [complaint = "", hint] = text
    .replace(/^error: /, "")
    .trim()
    .split("\n");
  const guess = hint ? ` ${hint}` : "";
  const help = isVerb(verb) ? `koala ${verb} --help` : "koala --help";
  return `${complaint.charAt(0).toUpperCase()}${complaint.slice(1).replace(/\.$/, "")}.${guess} See ${help}.`;
}

const isVerb = (name: string): name is keyof typeof modules => Object.hasOwn(modules, name);

/** One sentence for what the user did or the system refused, a trace for what we did. */
export function report(error: unknown): number {
  process.stderr.write(`koala: ${sentenceOf(error)}\n`);
  return 1;
}

function sentenceOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (["UsageError", "RequestError", "NativeError"].includes(error.name)) return error.message;
  // No such folder, no permission, disk full: "ENOSPC: no space left on device, write".
  if ("syscall" in error) return `The system refused: ${error.message}.`;
  return error.stack ?? error.message;
}

if (import.meta.main) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    process.exit(report(error));
  }
}
