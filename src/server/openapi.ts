/** The OpenAPI 3.1 document, made from the routes and their zod schemas: what is checked is what is documented. */

import { z } from "zod";
import type { Route } from "./route.ts";
import { errorSchema, seedSchema } from "./schema/common.ts";

export interface Operation {
  operationId: string;
  summary: string;
  description?: string;
  tags: string[];
  security?: object[];
  parameters?: object[];
  requestBody?: { required: true; content: Record<string, { schema: JsonSchema }> };
  responses: Record<string, { description: string; content?: Record<string, { schema: JsonSchema }> }>;
}

export interface JsonSchema {
  $ref?: string;
  type?: string | string[];
  description?: string;
  properties?: Record<string, JsonSchema>;
  required?: string[];
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  items?: JsonSchema;
  enum?: unknown[];
  const?: unknown;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  minLength?: number;
  maxLength?: number;
  maxItems?: number;
  $defs?: Record<string, JsonSchema>;
  [key: string]: unknown;
}

export interface OpenApiDocument {
  openapi: "3.1.0";
  info: { title: string; version: string; description: string };
  tags: { name: string; description: string }[];
  security: object[];
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, JsonSchema>; securitySchemes: object };
}

const TAGS = [
  { name: "OpenAI", description: "OpenAI's API, with vLLM's extensions." },
  { name: "Fine-tuning", description: "OpenAI's files, uploads and fine-tuning jobs." },
  { name: "Tokens", description: "The tokenizer, for evaluation harnesses." },
  { name: "EasyLM", description: "EasyLM's language model server." },
  { name: "Operations", description: "For load balancers, schedulers and dashboards." },
  { name: "Documents", description: "This description." },
];

const DESCRIPTION =
  "Unknown parameters are refused with a 400 that names them; with the header `x-koala-unknown-parameters: ignore` they are " +
  "listed in the answer's `x-koala-ignored-parameters` instead, where fields that are accepted without effect stand too. " +
  "Content types of requests are ignored. Where API keys are set, send `Authorization: Bearer KEY` or `x-api-key: KEY`.";

export function openApiDocument(routes: readonly Route[], version: string): OpenApiDocument {
  const schemas = new SchemaCollector();
  const paths: OpenApiDocument["paths"] = {};
  for (const route of routes)
    (paths[documentPath(route.path)] ??= {})[route.method] = operation(route, schemas);
  return {
    openapi: "3.1.0",
    info: { title: "Koala", version, description: DESCRIPTION },
    tags: TAGS,
    security: [{}, { bearer: [] }, { apiKey: [] }],
    paths,
    components: {
      schemas: schemas.components,
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer" },
        apiKey: { type: "apiKey", in: "header", name: "x-api-key" },
      },
    },
  };
}

/** /v1/models/:id{.+} as /v1/models/{id}. */
const documentPath = (path: string): string => path.replace(/:(\w+)(\{[^}]*\})?/g, "{$1}");

function operation(route: Route, schemas: SchemaCollector): Operation {
  const names = [...route.path.matchAll(/:(\w+)/g)].map((match) => match[1]!);
  return {
    operationId: route.operationId,
    summary: route.summary,
    ...(route.description === undefined ? {} : { description: route.description }),
    tags: [route.tag],
    ...(route.public ? { security: [] } : {}),
    ...(names.length === 0 && route.query === undefined
      ? {}
      : {
          parameters: [
            ...names.map((name) => ({ name, in: "path", required: true, schema: { type: "string" } })),
            ...queryParameters(route.query, schemas),
          ],
        }),
    ...requestBody(route, schemas),
    responses: responses(route, schemas),
  };
}

function queryParameters(query: z.ZodObject | undefined, schemas: SchemaCollector): object[] {
  const { properties = {} } = query === undefined ? {} : schemas.add(query, "output");
  return Object.entries(properties).map(([name, { description, ...schema }]) => ({
    name,
    in: "query",
    required: false,
    ...(description === undefined ? {} : { description }),
    schema,
  }));
}

function requestBody(route: Route, schemas: SchemaCollector): Pick<Operation, "requestBody"> {
  const schema = route.form ?? route.request;
  if (schema === undefined) return {};
  const type = route.form === undefined ? "application/json" : "multipart/form-data";
  return { requestBody: { required: true, content: { [type]: { schema: schemas.add(schema, "input") } } } };
}

function responses(route: Route, schemas: SchemaCollector): Operation["responses"] {
  const error = { "application/json": { schema: schemas.add(errorSchema, "output") } };
  const content: Record<string, { schema: JsonSchema }> = {};
  if (route.response !== undefined)
    content[route.contentType ?? "application/json"] = { schema: schemas.add(route.response, "output") };
  if (route.chunk !== undefined)
    content["text/event-stream"] = { schema: schemas.add(route.chunk, "output") };
  const failures: [string, string][] = [
    ...(route.request === undefined
      ? []
      : ([["400", "The request is wrong; `param` names the field."]] as [string, string][])),
    ...(route.public ? [] : ([["401", "An API key is needed."]] as [string, string][])),
    ["403", "The host name or the web page's origin is not allowed."],
    ...(route.request === undefined
      ? []
      : ([
          ["404", "There is no such model."],
          ["413", "The body is too large."],
        ] as [string, string][])),
    ...(route.work
      ? ([
          ["429", "The queue is full; retry-after-ms says when to try again."],
          ["503", "Loading, draining, or the engine is down."],
        ] as [string, string][])
      : []),
    ["500", "A mistake of the server."],
  ];
  return {
    "200": { description: route.summary, content },
    ...Object.fromEntries(failures.map(([status, description]) => [status, { description, content: error }])),
  };
}

/** Named schemas become components; everything else stays inline. */
class SchemaCollector {
  readonly components: Record<string, JsonSchema> = {};

  add(schema: z.ZodType, io: "input" | "output"): JsonSchema {
    const {
      $schema: _,
      $defs = {},
      ...rest
    } = z.toJSONSchema(schema, { io, unrepresentable: "any", override: exact }) as JsonSchema;
    for (const [name, definition] of Object.entries($defs)) this.components[name] = relink(definition);
    return relink(rest);
  }
}

/** JSON Schema has no bigint: the seed's two branches are one integer with 64-bit bounds. */
function exact(context: { zodSchema: unknown; jsonSchema: z.core.JSONSchema.BaseSchema }): void {
  if (context.zodSchema !== seedSchema) return;
  delete context.jsonSchema.anyOf;
  Object.assign(context.jsonSchema, { type: "integer", minimum: -(2 ** 63), maximum: 2 ** 64 });
}

function relink<T>(value: T): T {
  if (Array.isArray(value)) return value.map(relink) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(
        ([key]) =>
          key !== "id" || typeof value !== "object" || !("type" in value) || "properties" in value === false,
      )
      .map(([key, item]) => [
        key,
        key === "$ref" && typeof item === "string"
          ? item.replace("#/$defs/", "#/components/schemas/")
          : relink(item),
      ]),
  ) as T;
}
