/** The list of past chats, with a way to start a new one and to delete one. */
import { PlusIcon, TrashIcon } from "./icons.tsx";
import { type Chat, titleOf } from "./state.ts";

export function History(props: {
  chats: Chat[];
  openId: string;
  onNew: () => void;
  onOpen: (id: string) => void;
  onDelete: (id: string) => void;
}) {
  const remove = (chat: Chat) => {
    if (confirm(`Delete the chat "${titleOf(chat)}"? It cannot be brought back.`)) props.onDelete(chat.id);
  };
  return (
    <nav class="history" aria-label="Chats">
      <button type="button" class="button new" onClick={props.onNew}>
        <PlusIcon />
        New chat
      </button>
      {props.chats.length === 0 && <p class="hint">Chats are kept in this browser only.</p>}
      <ul>
        {props.chats.map((chat) => (
          <li key={chat.id} class={chat.id === props.openId ? "current" : ""}>
            <button
              type="button"
              class="title"
              aria-current={chat.id === props.openId ? "page" : undefined}
              onClick={() => props.onOpen(chat.id)}
            >
              {titleOf(chat)}
            </button>
            <button
              type="button"
              class="quiet"
              title="Delete chat"
              aria-label={`Delete chat: ${titleOf(chat)}`}
              onClick={() => remove(chat)}
            >
              <TrashIcon />
            </button>
          </li>
        ))}
      </ul>
    </nav>
  );
}
