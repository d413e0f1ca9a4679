/** The command line: one verb a file, loaded when it is called. Errors are one sentence on stderr and exit code 1. */
import { Command } from "commander";
import { version } from "../util/version.ts";

const verbs = ["serve", "chat", "generate", "bench", "doctor", "convert"] as const;

/** Each verb file exports this. */
export interface VerbModule {
  /** Adds the verb with its flags to the program. */
  register(program: Command): void;
}

const modules: Record<(typeof verbs)[number] | "engine", () => Promise<VerbModule>> = {
  serve: () => import("./serve.ts"),
  chat: () => import("./chat.ts"),
  generate: () => import("./generate.ts"),
  bench: () => import("./bench.ts"),
  doctor: () => import("./doctor.ts"),
  convert: () => import("./convert.ts"),
  engine: () => import("./engine.ts"),
};

export async function main(args: string[]): Promise<void> {
  const program = new Command("koala")
    .description("Serve LLaMA-family chat models behind the OpenAI API, from one executable.")
    .version(version, "-v, --version", "print the version and exit")
    .helpOption("-h, --help", "print this help and exit")
    .showHelpAfterError("Run koala --help, or koala VERB --help, for the flags.");
  const wanted = args[0] ?? "";
  const names = wanted in modules ? [wanted as keyof typeof modules] : verbs;
  for (const name of names) (await modules[name]()).register(program);
  if (args.length === 0) return program.outputHelp();
  await program.parseAsync(args, { from: "user" });
}

/** One sentence for what the user did, a trace for what we did. */
export function report(error: unknown): number {
  const named = error instanceof Error && ["UsageError", "RequestError", "NativeError"].includes(error.name);
  const text =
    error instanceof Error ? (named ? error.message : (error.stack ?? error.message)) : String(error);
  process.stderr.write(`koala: ${text}\n`);
  return 1;
}

if (import.meta.main) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    process.exit(report(error));
  }
}
