/** /tokenize, /detokenize, /tokenizer_info: the tokenizer without the model. None of them waits for the engine:
 *  lm-evaluation-harness calls /tokenize twice for each of its requests, one after the other. */

import { idsOf } from "../../text/segments.ts";
import { RequestError } from "../../util/errors.ts";
import { renderChat } from "../prompt.ts";
import { defineRoute } from "../route.ts";
import {
  detokenizeRequestSchema,
  detokenizeResponseSchema,
  tokenizeRequestSchema,
  tokenizeResponseSchema,
  tokenizerInfoSchema,
} from "../schema/tokens.ts";

export const tokenizeRoute = defineRoute({
  method: "post",
  path: "/tokenize",
  operationId: "tokenize",
  tag: "Tokens",
  summary: "A text, or a dialogue, as token ids",
  request: tokenizeRequestSchema,
  response: tokenizeResponseSchema,
  handle: (c, call) => {
    const { body } = call;
    const model = call.context.models.find(body.model);
    const { prompt, messages } = body;
    if ((prompt === null || prompt === undefined) === (messages === null || messages === undefined))
      throw new RequestError("Send either prompt or messages.", { param: "prompt", code: "invalid_value" });
    const tokens = messages
      ? idsOf(renderChat(model, { ...body, messages }))
      : model.tokenizer.encode(prompt!, { addSpecialTokens: body.add_special_tokens ?? true });
    return c.json({
      tokens,
      count: tokens.length,
      max_model_len: model.maxModelLen,
      token_strs: body.return_token_strs ? tokens.map((id) => model.tokenizer.tokenString(id)) : null,
    });
  },
});

export const detokenizeRoute = defineRoute({
  method: "post",
  path: "/detokenize",
  operationId: "detokenize",
  tag: "Tokens",
  summary: "Token ids as a text",
  request: detokenizeRequestSchema,
  response: detokenizeResponseSchema,
  handle: (c, call) => {
    const { body } = call;
    const { tokenizer } = call.context.models.find(body.model);
    const unknown = body.tokens.find((id) => id >= tokenizer.vocabularySize);
    if (unknown !== undefined)
      throw new RequestError(
        `tokens has the id ${unknown}, but this model's ids end at ${tokenizer.vocabularySize - 1}.`,
        {
          param: "tokens",
          code: "invalid_value",
        },
      );
    return c.json({
      prompt: tokenizer.decode(body.tokens, { skipSpecialTokens: body.skip_special_tokens ?? false }),
    });
  },
});

export const tokenizerInfoRoute = defineRoute({
  method: "get",
  path: "/tokenizer_info",
  operationId: "tokenizerInfo",
  tag: "Tokens",
  summary: "Special tokens and the chat template",
  description:
    "`?model=` names another than the first. lm-evaluation-harness builds its remote tokenizer from this.",
  response: tokenizerInfoSchema,
  handle: (c, call) => {
    const model = call.context.models.find(c.req.query("model"));
    const { tokenizer, template } = model;
    const { bos, eos, unk, pad } = tokenizer.specialTokens;
    return c.json({
      tokenizer_class: "KoalaTokenizer",
      vocab_size: tokenizer.vocabularySize,
      model_max_length: model.maxModelLen,
      bos_token: bos,
      eos_token: eos,
      unk_token: unk,
      pad_token: pad,
      bos_token_id: tokenizer.bosId,
      eos_token_ids: [...tokenizer.eosIds],
      chat_template: template?.source ?? null,
    });
  },
});
