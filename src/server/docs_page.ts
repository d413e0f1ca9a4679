/** The OpenAPI document as one page without scripts or external assets. */

import type { JsonSchema, OpenApiDocument, Operation } from "./openapi.ts";

export function docsPage(document: OpenApiDocument): string {
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  const groups = document.tags.map((tag) => ({
    ...tag,
    operations: operations.filter(({ operation }) => operation.tags.includes(tag.name)),
  }));
  const { schemas } = document.components;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(document.info.title)} API</title><style>${STYLE}</style></head><body>
<header><h1>${escape(document.info.title)} API <small>${escape(document.info.version)}</small></h1>
<p>${prose(document.info.description)}</p><p><a href="/openapi.json">openapi.json</a></p></header>
<nav>${groups.map((group) => `<h2>${escape(group.name)}</h2><ul>${group.operations.map(link).join("")}</ul>`).join("")}</nav>
<main>${groups.map((group) => `<section><h2>${escape(group.name)}</h2><p>${prose(group.description)}</p>${group.operations.map((one) => article(one, schemas)).join("")}</section>`).join("")}
<section><h2>Schemas</h2>${Object.keys(schemas)
    .sort()
    .map((name) => `<article id="schema-${name}"><h3>${escape(name)}</h3>${table(schemas[name]!)}</article>`)
    .join("")}</section></main>
</body></html>`;
}

interface Entry {
  path: string;
  method: string;
  operation: Operation;
}

const link = ({ path, method, operation }: Entry): string =>
  `<li><a href="#${escape(operation.operationId)}"><b>${method}</b> ${escape(path)}</a></li>`;

function article({ path, method, operation }: Entry, schemas: Record<string, JsonSchema>): string {
  const request = operation.requestBody?.content["application/json"]?.schema;
  const answers = Object.entries(operation.responses["200"]?.content ?? {});
  const failures = Object.entries(operation.responses).filter(([status]) => status !== "200");
  return `<article id="${escape(operation.operationId)}"><h3><b>${method}</b> <code>${escape(path)}</code></h3>
<p>${escape(operation.summary)}.</p>${operation.description === undefined ? "" : `<p>${prose(operation.description)}</p>`}
${request === undefined ? "" : `<h4>Request</h4>${table(resolve(request, schemas))}`}
<h4>Answer</h4>${answers.map(([type, { schema }]) => `<p><code>${escape(type)}</code>: ${typeName(schema)}</p>`).join("")}
<details><summary>Failures</summary><ul>${failures.map(([status, { description }]) => `<li><b>${status}</b> ${escape(description)}</li>`).join("")}</ul></details></article>`;
}

const resolve = (schema: JsonSchema, schemas: Record<string, JsonSchema>): JsonSchema =>
  schema.$ref === undefined ? schema : (schemas[schema.$ref.split("/").at(-1)!] ?? schema);

function table(schema: JsonSchema): string {
  const { properties } = schema;
  if (properties === undefined)
    return `<p>${typeName(schema)}${schema.description ? `. ${prose(schema.description)}` : ""}</p>`;
  const rows = Object.entries(properties).map(([name, property]) => {
    const required = schema.required?.includes(name) ? " <em>required</em>" : "";
    return `<tr><td><code>${escape(name)}</code>${required}</td><td>${typeName(property)}</td><td>${prose(property.description ?? "")}</td></tr>`;
  });
  return `<div class="wide"><table><thead><tr><th>field</th><th>type</th><th>meaning</th></tr></thead><tbody>${rows.join("")}</tbody></table></div>`;
}

/** A type in a few words, with its bounds. */
function typeName(schema: JsonSchema): string {
  const name = schema.$ref?.split("/").at(-1);
  if (name !== undefined) return `<a href="#schema-${name}">${escape(name)}</a>`;
  const branches = (schema.anyOf ?? schema.oneOf)?.filter((branch) => branch.type !== "null");
  if (branches !== undefined) return branches.map(typeName).join(" or ");
  if (schema.const !== undefined) return `<code>${escape(JSON.stringify(schema.const))}</code>`;
  if (schema.enum !== undefined)
    return schema.enum.map((value) => `<code>${escape(JSON.stringify(value))}</code>`).join(" or ");
  if (schema.type === "array")
    return `array of ${schema.items === undefined ? "anything" : typeName(schema.items)}`;
  const types = [schema.type ?? "anything"]
    .flat()
    .filter((type) => type !== "null")
    .join(" or ");
  return `${escape(types)}${range(schema)}`;
}

function range(schema: JsonSchema): string {
  if (schema.type === "string")
    return schema.maxLength === undefined ? "" : `, up to ${schema.maxLength} characters`;
  const low = schema.exclusiveMinimum === undefined ? schema.minimum : schema.exclusiveMinimum;
  const open = schema.exclusiveMinimum !== undefined;
  const far = (bound: number | undefined): boolean =>
    bound === undefined || Math.abs(bound) >= Number.MAX_SAFE_INTEGER;
  if (far(low) && far(schema.maximum)) return "";
  return `, ${open ? "above " : ""}${far(low) ? "" : low} to ${far(schema.maximum) ? "any" : schema.maximum}`;
}

/** Escaped text in which `code` shows as code. */
const prose = (text: string): string => escape(text).replace(/`([^`]+)`/g, "<code>$1</code>");

const escape = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

const STYLE = `:root{color-scheme:light dark;--line:light-dark(#d5d9de,#3a4048);--soft:light-dark(#f4f5f7,#20242a);--link:light-dark(#0b57b0,#8ab8f5)}
*{box-sizing:border-box}body{margin:0 auto;max-width:76rem;padding:1rem;font:16px/1.55 system-ui,sans-serif;background:light-dark(#fff,#15181c);color:light-dark(#1c2127,#e4e7eb);display:grid;grid-template-columns:17rem 1fr;gap:0 2rem}
header{grid-column:1/-1}nav{font-size:.875rem;position:sticky;top:0;align-self:start;max-height:100vh;overflow:auto}nav h2{font-size:.875rem;margin:.75rem 0 .25rem}nav ul{list-style:none;margin:0;padding:0}nav b,h3 b{font-size:.75em;text-transform:uppercase;color:light-dark(#1c7a3f,#7fd49a)}
main{min-width:0}article{border-top:1px solid var(--line);padding:.5rem 0 1rem}h3{margin:.75rem 0 .25rem;overflow-wrap:anywhere}h4{margin:.75rem 0 .25rem}p{margin:.4rem 0;max-width:46rem}small{font-weight:normal;opacity:.7}
a{color:var(--link)}code{background:var(--soft);padding:.1em .3em;border-radius:4px;font-size:.9em}.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{text-align:left;vertical-align:top;border-bottom:1px solid var(--line);padding:.35rem .6rem .35rem 0}
@media(max-width:50rem){body{display:block}nav{position:static;max-height:none}thead{display:none}tr{display:block;border-bottom:1px solid var(--line);padding:.4rem 0}td{display:block;border:0;padding:.1rem 0}}`;
