/** The built-in model as it is served when no model is named: twice, once with each marker, from one engine. */
import { builtinModel, builtinName } from "../model/builtin_model.ts";
import type { ServedModel } from "../server/context.ts";
import { namedTemplate } from "../text/template.ts";
import { openServedModel, type ServedModelFlags } from "./served_model.ts";

const description =
  "A demonstration of 4 million parameters, trained by this program in half an hour on sentences that it wrote itself. It greets, counts, adds small numbers and knows a few facts; anything else it makes up.";

const negativeDescription =
  "The same weights behind the marker for bad answers: trained to tell good answers from bad ones, the model gives a bad one when asked for it.";

/** The helpful model first, then the one with the negative marker. */
export async function openBuiltinModels(flags: ServedModelFlags): Promise<ServedModel[]> {
  const helpful = await openServedModel(builtinModel(), flags, { id: flags.servedModelName ?? builtinName });
  helpful.description = description;
  const negative: ServedModel = {
    ...helpful,
    id: `${helpful.id}-unhelpful`,
    template: await namedTemplate("koala-negative", helpful.tokenizer),
    description: negativeDescription,
    // A spread would freeze it before the engine has spoken.
    get maxModelLen() {
      return helpful.maxModelLen;
    },
  };
  return [helpful, negative];
}
