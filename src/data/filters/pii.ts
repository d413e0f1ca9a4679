/** Personal data and secrets by pattern: e-mail and IP addresses, phone and card numbers, keys of services.
 *  Always: a mask is the kind in brackets, `[EMAIL]`; what is found is counted by kind and never written to a report. */
import { z } from "zod";
import type { Dialogue } from "../dialogue.ts";
import { contentText } from "../record.ts";
import { changed, dropped, kept, type Filter, type Outcome } from "./filter.ts";
import { allMessages, mapTexts } from "./texts.ts";

export const piiKinds = ["key", "email", "card", "ip", "phone"] as const;
export type PiiKind = (typeof piiKinds)[number];

export const piiOptions = z.strictObject({
  rule: z.literal("pii"),
  mode: z.enum(["report", "mask", "drop"]).default("report"),
  kinds: z
    .array(z.enum(piiKinds))
    .min(1)
    .default([...piiKinds]),
});

export class Pii implements Filter {
  readonly name = "pii";
  private readonly kinds: PiiKind[];

  constructor(private readonly options: z.output<typeof piiOptions>) {
    // In the table's order: a key that holds digits is not also a phone number.
    this.kinds = piiKinds.filter((kind) => options.kinds.includes(kind));
  }

  apply(dialogue: Dialogue): Outcome {
    const found = new Set<PiiKind>();
    const mask = (text: string): string => maskPii(text, this.kinds, (kind) => found.add(kind));
    if (this.options.mode === "mask") {
      const masked = mapTexts(dialogue, mask);
      return masked ? changed(masked, ...[...found].map((kind) => `masked: ${kind}`)) : kept(dialogue);
    }
    for (const message of allMessages(dialogue)) mask(contentText(message));
    if (found.size === 0) return kept(dialogue);
    const kinds = this.kinds.filter((kind) => found.has(kind));
    if (this.options.mode === "report")
      return kept(
        dialogue,
        kinds.map((kind) => `holds: ${kind}`),
      );
    return dropped(`holds: ${kinds[0]!}`, kinds.length > 1 ? `also: ${kinds.slice(1).join(", ")}` : null);
  }
}

/** Replaces what is found by `[KIND]`; `onFound` hears of each. */
export function maskPii(
  text: string,
  kinds: readonly PiiKind[] = piiKinds,
  onFound: (kind: PiiKind) => void = () => {},
): string {
  for (const kind of kinds) {
    const { pattern, confirms } = finders[kind];
    text = text.replace(pattern, (found) => {
      if (confirms && !confirms(found)) return found;
      onFound(kind);
      return `[${kind.toUpperCase()}]`;
    });
  }
  return text;
}

const finders: { [kind in PiiKind]: { pattern: RegExp; confirms?: (found: string) => boolean } } = {
  key: {
    pattern: new RegExp(
      [
        /\bsk-(?:proj-|ant-|or-)?[A-Za-z0-9_-]{20,}/, // OpenAI, Anthropic, OpenRouter
        /\bgh[pousr]_[A-Za-z0-9]{36,}/,
        /\bgithub_pat_[A-Za-z0-9_]{40,}/,
        /\b(?:AKIA|ASIA)[A-Z0-9]{16}\b/,
        /\bhf_[A-Za-z0-9]{30,}/,
        /\bxox[abprs]-[A-Za-z0-9-]{10,}/,
        /\bAIza[A-Za-z0-9_-]{35}/,
        /\bglpat-[A-Za-z0-9_-]{20,}/,
        /\b[rs]k_live_[A-Za-z0-9]{20,}/,
        /\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}/, // JSON Web Token
        /-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----[\s\S]*?-----END (?:[A-Z]+ )?PRIVATE KEY-----/,
      ]
        .map(({ source }) => source)
        .join("|"),
      "g",
    ),
  },
  email: {
    pattern:
      /(?<![\w.+-])[\w.+%-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b/g,
    // RFC 2606 keeps these for examples.
    confirms: (found) =>
      !/@(?:[\w-]+\.)*(?:example\.(?:com|net|org)|[\w-]+\.(?:example|invalid|test))$/i.test(found),
  },
  card: { pattern: /(?<![\d.-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\d-]|\.\d)/g, confirms: isCard },
  ip: {
    pattern:
      /(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\.?\d)|(?<![\w:])(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}(?![\w:])|(?<![\w:])(?:[0-9a-f]{1,4}:){1,6}(?::[0-9a-f]{1,4}){1,6}(?![\w:])/gi,
    // Loopback, private and documentation ranges (RFC 1918, 5737, 3849) tell nothing about anyone.
    confirms: (found) =>
      !/^(?:0\.|10\.|127\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|192\.0\.2\.|198\.51\.100\.|203\.0\.113\.|169\.254\.|255\.|2001:0?db8:|fe80:)/i.test(
        found,
      ),
  },
  phone: {
    // International with a plus, or North American with its separators.
    pattern:
      /(?<![\w+])\+[1-9](?:[ ().-]{0,2}\d){7,14}(?!\d)|(?<![\w.-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4}(?![\w-])/g,
  },
};

/** The networks' lengths and first digits, and Luhn's check sum. */
function isCard(found: string): boolean {
  const digits = found.replace(/\D/g, "");
  const network =
    /^4(?:\d{12}|\d{15}|\d{18})$|^(?:5[1-5]|2[2-7])\d{14}$|^3[47]\d{13}$|^3(?:0[0-5]|[68]\d)\d{11}$|^6(?:011|5\d\d)\d{12}$|^35\d{14}$/;
  return network.test(digits) && luhn(digits);
}

/** ISO/IEC 7812-1: every second digit from the right is doubled, and the digits' sum divides by ten. */
export function luhn(digits: string): boolean {
  let sum = 0;
  for (let i = 0; i < digits.length; i++) {
    const digit = Number(digits[digits.length - 1 - i]);
    const doubled = i % 2 === 1 ? digit * 2 : digit;
    sum += doubled > 9 ? doubled - 9 : doubled;
  }
  return sum % 10 === 0;
}
