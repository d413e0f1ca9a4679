/** LoRA adapters as served models: in the engine of their base, under names of their own. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { AdapterEngine } from "../engine/adapter_engine.ts";
import { readConfig } from "../model/config.ts";
import { adapterConfigFile, checkAdapter } from "../model/lora.ts";
import type { ModelRegistry, ServedModel } from "../server/context.ts";
import type { StoredModel } from "../store/models.ts";
import { hashTokenizer } from "../text/fingerprint.ts";
import { recordFile, servingTemplate } from "../text/model_record.ts";
import { readJsonObject } from "../text/tokenizer_file.ts";
import { UsageError } from "../util/errors.ts";

export type AdapterModel = ServedModel & { engine: AdapterEngine };

/** The adapters of `--lora name=path`, checked against the base's config before anything is loaded. */
export async function openAdapters(base: ServedModel, given: readonly string[]): Promise<AdapterModel[]> {
  const models: AdapterModel[] = [];
  const taken = new Set([base.id, ...base.aliases]);
  for (const text of given) {
    const [, id, named] = /^([^=]+)=(.+)$/.exec(text) ?? [];
    if (id === undefined || named === undefined)
      throw new UsageError(`--lora ${text} is not name=path, as --lora polite=./polite-adapter.`);
    if (taken.has(id)) throw new UsageError(`--lora ${text}: a model named ${id} is served already.`);
    taken.add(id);
    const path = adapterFolder(named);
    await checkAdapter(await readConfig(base.path), path);
    models.push(adapterModel(base, path, { id, generation: 1, created: Math.floor(Date.now() / 1000) }));
  }
  return models;
}

/** A model that `koala train` or a job made has its adapter in a folder beside the merged weights. */
function adapterFolder(path: string): string {
  const inside = join(path, "adapter");
  const holdsOne = (folder: string) => existsSync(join(folder, adapterConfigFile));
  return !holdsOne(path) && holdsOne(inside) ? inside : path;
}

/** What a job made of a base that is served here, in that base's engine; null where it needs an engine of its own: it has no
 *  adapter, another base, or another tokenizer. Throws UsageError where its template is not the one of its training. */
export async function openTunedAdapter(
  row: StoredModel,
  directory: string,
  registry: ModelRegistry,
): Promise<AdapterModel | null> {
  const adapter = join(directory, "adapter");
  const trainedOn = (await readJsonObject(join(directory, recordFile)))?.base;
  if (!existsSync(join(adapter, adapterConfigFile)) || typeof trainedOn !== "string") return null;
  const base = registry
    .list()
    .find(({ engine, path }) => engine.adapters !== undefined && resolve(path) === resolve(trainedOn));
  if (base === undefined || (await hashTokenizer(directory)) !== (await hashTokenizer(base.path)))
    return null;
  await checkAdapter(await readConfig(base.path), adapter);
  const template = await servingTemplate(directory, base.tokenizer, row.template ?? undefined);
  const created = row.createdAt.getTime();
  return {
    ...adapterModel(base, adapter, { id: row.id, generation: created, created: Math.floor(created / 1000) }),
    template,
    toolFormat: template?.toolFormat ?? null,
    get maxModelLen() {
      return base.maxModelLen;
    },
    parent: row.parent,
    path: directory,
  };
}

function adapterModel(
  base: ServedModel,
  directory: string,
  as: { id: string; generation: number; created: number },
): AdapterModel {
  const { id, generation, created } = as;
  return {
    ...base,
    id,
    aliases: [],
    engine: new AdapterEngine(base.engine, { id, generation, path: resolve(directory) }),
    // A spread would freeze it before the engine has spoken.
    get maxModelLen() {
      return base.maxModelLen;
    },
    parent: base.id,
    sharesEngine: true,
    description: null,
    created,
    path: directory,
  };
}
