/** OpenAI's chat format: `{"messages": [{role, content}], "tools"?}`, one conversation a record. */
import { messagesFormat } from "../formats/messages.ts";
import type { ChatRecord } from "../record.ts";
import type { Source } from "./source.ts";

export const messagesSource: Source = {
  name: "messages",
  about: "Conversations as OpenAI's messages.",
  keys: messagesFormat.keys,
  licence: null,
  matches: (value) => messagesFormat.matches(value, {}),
  parse(value) {
    const { record, repairs } = messagesFormat.parse(value, {});
    return [{ record: record as ChatRecord, repairs }];
  },
};
