/** `koala data sources`: the parsers of raw files, with what they read and their settings. */
import type { Command } from "commander";
import { sources } from "../../data/sources/registry.ts";

export function registerSources(data: Command): void {
  data
    .command("sources")
    .description("list the kinds of raw files that recipes may name, with their settings")
    .option("--json", "print the list as JSON")
    .action(({ json }: { json?: boolean }) => console.log(json ? asJson() : asText()));
}

const asJson = (): string =>
  JSON.stringify(
    sources.map(({ name, about, keys, licence, options = {} }) => ({ name, about, keys, licence, options })),
    null,
    2,
  );

function asText(): string {
  const paragraphs = sources.map(({ name, about, keys, licence, options = {} }) => {
    const settings = Object.entries(options).map(([key, { about: text, type, default: value, choices }]) => {
      const kind = choices ? choices.map((choice) => JSON.stringify(choice)).join(" or ") : type;
      return `    ${key} = ${kind}${value === undefined ? "" : `, default ${JSON.stringify(value)}`}: ${text}`;
    });
    return [`${name}: ${about}`, `    records with ${keys}; licence ${licence ?? "as you say"}`, ...settings];
  });
  return paragraphs.map((lines) => lines.join("\n")).join("\n\n");
}
