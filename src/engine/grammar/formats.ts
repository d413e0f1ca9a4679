/** JSON Schema's string formats as regular expressions. Some are narrower than their RFC (said at each); none is wider. */

const day = "(0[1-9]|1[0-9]|2[0-8])";
const leapYear = "([0-9][0-9](0[48]|[2468][048]|[13579][26])|(0[048]|[2468][048]|[13579][26])00)";
/** Years 0000 to 9999 of the Gregorian calendar, leap days included (RFC 3339). */
const date =
  `([0-9]{4}-((0[1-9]|1[0-2])-${day}|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)` + `|${leapYear}-02-29)`;
/** No leap second; at most nine decimals. */
const clock = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?";
const offset = "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
const octet = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const label = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";

export const formats: Readonly<Record<string, string>> = {
  date,
  time: `${clock}${offset}`,
  "date-time": `${date}T${clock}${offset}`,
  /** Weeks alone, or the other units in order with at least one. */
  duration:
    "P([0-9]{1,9}W|[0-9]{1,9}Y([0-9]{1,9}M)?([0-9]{1,9}D)?(T[0-9]{1,9}H)?|[0-9]{1,9}M([0-9]{1,9}D)?(T[0-9]{1,9}H)?|[0-9]{1,9}D(T[0-9]{1,9}H)?" +
    "|T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))",
  /** Versions 1 to 8 with the RFC 9562 variant. */
  uuid: "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}",
  /** Unquoted local part, a host name with a top-level domain of letters. */
  email:
    "[a-zA-Z0-9_+-]{1,32}(\\.[a-zA-Z0-9_+-]{1,16}){0,3}@([a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?\\.){1,4}[a-zA-Z]{2,24}",
  /** At most three labels, which keeps within 253 characters. */
  hostname: `${label}(\\.${label}){0,2}`,
  /** http and https with a host name, a port, a path and a query. */
  uri:
    "https?://([a-z0-9]+(-[a-z0-9]+)*\\.)*[a-z]{2,24}(:[1-9][0-9]{0,3})?" +
    "(/[a-zA-Z0-9._~-]*)*(\\?[a-zA-Z0-9._~=&-]*)?",
  ipv4: `${octet}(\\.${octet}){3}`,
  /** The full form of eight groups. */
  ipv6: "[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4}){7}",
};
