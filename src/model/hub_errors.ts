/** What can go wrong between here and the hub, each as one sentence with a way out. */
import { UsageError } from "../util/errors.ts";
import { indexFile, singleFile } from "./checkpoint.ts";
import { HttpError, NetworkError } from "./download.ts";

/** Which model was asked for, and where. */
export interface HubAddress {
  organization: string;
  model: string;
  revision: string;
  endpoint: string;
  transport: { token: string | null };
}

/** The hub is not to be had now, which a copy on disk makes up for. */
export const isOutage = (error: unknown): boolean =>
  error instanceof NetworkError ||
  (error instanceof HttpError && (error.status === 429 || error.status >= 500));

/** What a person can do about a failed request; other errors as they are. */
export function sentenceFor(error: unknown, hub: HubAddress): unknown {
  const id = `${hub.organization}/${hub.model}`;
  const page = `${hub.endpoint}/${id}`;
  if (error instanceof NetworkError) {
    return new UsageError(
      `${id} could not be fetched: ${error.message.replace(/[.?!]+$/, "")}. Check the network and HF_ENDPOINT; the same command goes on where this one stopped.`,
    );
  }
  if (!(error instanceof HttpError)) return error;
  const { status, code, host } = error;
  if (code === "GatedRepo" || (status === 403 && page.includes(`//${host}/`))) {
    const way =
      hub.transport.token === null
        ? "then set HF_TOKEN to a token of that account"
        : "with the account that HF_TOKEN belongs to";
    return new UsageError(
      `Access to ${id} is granted by its owners (${host} answered ${status}): ask for it at ${page}, ${way}.`,
    );
  }
  if (status === 401 && hub.transport.token === null) {
    return new UsageError(
      `${host} shows ${id} to nobody without a token (401): check the name, and if the model is private or gated, set HF_TOKEN.`,
    );
  }
  if (status === 401)
    return new UsageError(
      `${host} does not accept the token in HF_TOKEN for ${id} (401): check the token and the name.`,
    );
  if (code === "RevisionNotFound")
    return new UsageError(`${id} has no revision ${hub.revision}. See ${page}/tree/main for those it has.`);
  if (status === 404) return new UsageError(`${host} has no model ${id} (404). Check the name at ${page}.`);
  if (status === 429)
    return new UsageError(
      `${host} limits requests (429): wait a few minutes, or set HF_TOKEN for a higher limit.`,
    );
  return new UsageError(
    `${host} answered ${status}${code === "" ? "" : ` (${code})`} to a request for ${id}. Try again later.`,
  );
}

/** A model whose weights are in formats that are never fetched. `names`: its files. */
export function notReadable(hub: HubAddress, names: string[]): UsageError {
  const id = `${hub.organization}/${hub.model}`;
  if (!names.includes("config.json"))
    return new UsageError(
      `${id} has no config.json, so it is not a model that transformers or Koala could load.`,
    );
  const others = names.filter((name) => /\.(bin|pt|pth|ckpt|gguf|h5|msgpack|onnx|safetensors)$/.test(name));
  const found =
    others.length === 0
      ? "no weights at all"
      : `only ${others.slice(0, 3).join(", ")}${others.length > 3 ? ", ..." : ""}`;
  return new UsageError(
    `${id} has neither ${singleFile} nor ${indexFile}, ${found}. Choose a revision or a copy of the model with safetensors.`,
  );
}
