/** /openapi.json and /docs: both made from the routes, when first asked for. */

import { z } from "zod";
import { docsPage } from "../docs_page.ts";
import { openApiDocument, type OpenApiDocument } from "../openapi.ts";
import { defineRoute, type Route } from "../route.ts";

/** `routes`: what else there is. */
export function documentRoutes(routes: readonly Route[], version: string): Route[] {
  let made: { document: OpenApiDocument; page: string } | null = null;
  const make = (): { document: OpenApiDocument; page: string } => {
    const document = openApiDocument([...routes, openapiRoute, docsRoute], version);
    return (made ??= { document, page: docsPage(document) });
  };
  const openapiRoute = defineRoute({
    method: "get",
    path: "/openapi.json",
    operationId: "openapi",
    tag: "Documents",
    summary: "This API as an OpenAPI 3.1 document",
    response: z.record(z.string(), z.unknown()),
    handle: (c) => c.json((made ?? make()).document),
  });
  const docsRoute = defineRoute({
    method: "get",
    path: "/docs",
    operationId: "docs",
    tag: "Documents",
    summary: "This API as a page to read",
    contentType: "text/html; charset=utf-8",
    response: z.string(),
    handle: (c) => c.body((made ?? make()).page, 200, HTML),
  });
  return [openapiRoute, docsRoute];
}

const HTML = {
  "content-type": "text/html; charset=utf-8",
  "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
};
