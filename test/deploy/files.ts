/** The files of deploy/ as data, and the command lines that they hold. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command, type Option } from "commander";
import { register as registerServe } from "../../src/cli/serve.ts";
import { register as registerTrain } from "../../src/cli/train.ts";

export const deployDirectory = join(import.meta.dir, "..", "..", "deploy");
export const read = (file: string): string => readFileSync(join(deployDirectory, file), "utf8");

/** A Kubernetes object; the tests ask for what they expect at a place. */
export type Manifest = { kind: string } & Record<string, unknown>;

export const manifests = (file: string): Manifest[] => {
  const parsed = Bun.YAML.parse(read(`kubernetes/${file}`)) as Manifest | Manifest[];
  return Array.isArray(parsed) ? parsed : [parsed];
};

/** What lies at "spec.template.0.name" of a manifest. */
export function at<T>(value: unknown, path: string): T {
  let found = value;
  for (const key of path.split(".")) found = (found as Record<string, unknown> | undefined)?.[key];
  if (found === undefined) throw new Error(`nothing at ${path}`);
  return found as T;
}

const program = new Command();
for (const register of [registerServe, registerTrain]) register(program);

/** The flags of a command line of `koala`, each with its value as the program would parse it. Throws for what it would refuse. */
export function flagsOf(args: string[]): Map<string, unknown> {
  const [verb, ...rest] = args;
  const options = program.commands.find((command) => command.name() === verb)?.options;
  if (!options) throw new Error(`koala has no verb ${verb}`);
  const found = new Map<string, unknown>();
  for (let i = 0; i < rest.length; i++) {
    const [name = "", inline] = (rest[i] as string).split(/=(.*)/s);
    if (!name.startsWith("-")) continue;
    const option = options.find(({ long }) => long === name);
    if (!option) throw new Error(`koala ${verb} has no flag ${name}`);
    found.set(name, takesValue(option) ? parsed(option, inline ?? rest[++i]) : true);
  }
  return found;
}

const takesValue = ({ required, optional }: Option): boolean => required || optional;

function parsed(option: Option, text: string | undefined): unknown {
  if (text === undefined) throw new Error(`${option.long} has no value`);
  return option.parseArg ? option.parseArg(text, option.defaultValue) : text;
}
