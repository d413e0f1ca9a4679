/** The part of an address behind "?", against a schema; and what all lists with cursors share. */
import type { Context } from "hono";
import type { z } from "zod";
import { RequestError } from "../util/errors.ts";
import { validate } from "./validate.ts";

/** Unknown names are refused by the schema, as in bodies. */
export function readQuery<S extends z.ZodObject>(c: Context, schema: S): z.output<S> {
  // Clients write an absent value as an empty one.
  const given = Object.entries(c.req.query()).filter(([, value]) => value !== "");
  return validate(schema, Object.fromEntries(given), { lenient: false }).value;
}

export const cursorFault = (): RequestError =>
  new RequestError("after must be the id of an entry of this list.", {
    param: "after",
    code: "invalid_value",
  });

export const unixSeconds = (time: Date): number => Math.floor(time.getTime() / 1000);
