/** A side panel: beside the chat where there is room, else a modal dialog over it (focus stays inside, Esc closes it). */
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { CloseIcon } from "./icons.tsx";

export function Panel(props: {
  label: string;
  side: "left" | "right";
  inline: boolean;
  onClose: () => void;
  children: ComponentChildren;
}) {
  if (!props.inline) return <Modal {...props} />;
  return (
    <aside class={`panel ${props.side}`} aria-label={props.label}>
      {props.children}
    </aside>
  );
}

function Modal({ label, side, onClose, children }: Parameters<typeof Panel>[0]) {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    dialog.current?.showModal();
  }, []);
  const onBackdrop = (event: MouseEvent) => event.target === dialog.current && onClose();
  return (
    <dialog
      ref={dialog}
      class={`panel modal ${side}`}
      aria-label={label}
      onClose={onClose}
      onClick={onBackdrop}
    >
      <div class="row between">
        <strong>{label}</strong>
        <button
          type="button"
          class="quiet"
          onClick={onClose}
          title="Close"
          aria-label={`Close ${label.toLowerCase()}`}
        >
          <CloseIcon />
        </button>
      </div>
      {children}
    </dialog>
  );
}
