/** The page's icons, drawn on a grid of 24 with the text's colour; the koala is also icon.svg. All are decoration: the
 *  button around an icon carries the name. */
import type { ComponentChildren } from "preact";

function Icon({ children }: { children: ComponentChildren }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      {children}
    </svg>
  );
}

const path = (d: string) => () => (
  <Icon>
    <path d={d} />
  </Icon>
);

export const PlusIcon = path("M12 5v14M5 12h14");
export const MenuIcon = path("M4 7h16M4 12h16M4 17h16");
export const CloseIcon = path("M6 6l12 12M18 6L6 18");
export const SendIcon = path("M12 19V5M6 11l6-6 6 6");
export const CheckIcon = path("M5 12.5l4.5 4.5L19 7.5");
export const CopyIcon = path("M9 9h10v11H9zM5 15V4h10");
export const RetryIcon = path("M19 12a7 7 0 1 1-2.2-5.1M17 3v4h-4");
export const EditIcon = path("M5 19l1-4L16 5l3 3L9 18zM14 7l3 3");
export const FlagIcon = path("M6 21V4M6 5h11l-2.5 4L17 13H6");
export const TrashIcon = path("M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5");
export const SlidersIcon = path("M4 8h9M17 8h3M15 6v4M4 16h3M11 16h9M9 14v4");
export const MoonIcon = path("M19.5 14A8 8 0 0 1 10 4.5 8 8 0 1 0 19.5 14z");
export const DownIcon = path("M12 5v14M6 13l6 6 6-6");
export const UndoIcon = path("M9 5L5 9l4 4M5 9h9a5 5 0 0 1 0 10h-3");

export const SunIcon = () => (
  <Icon>
    <circle cx="12" cy="12" r="4" />
    <path d="M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6l1.4 1.4M17 17l1.4 1.4M5.6 18.4L7 17M17 7l1.4-1.4" />
  </Icon>
);

export const StopIcon = () => (
  <Icon>
    <rect x="7" y="7" width="10" height="10" rx="2" fill="currentColor" stroke="none" />
  </Icon>
);

export const Koala = () => (
  <svg class="koala" viewBox="0 0 64 64" aria-hidden="true" focusable="false">
    <g class="fur">
      <circle cx="12.5" cy="20" r="11.5" />
      <circle cx="51.5" cy="20" r="11.5" />
      <path d="M32 12c14 0 22.5 9 22.5 22S45 55 32 55 9.5 47 9.5 34 18 12 32 12z" />
    </g>
    <g class="ear">
      <circle cx="11.5" cy="20" r="6" />
      <circle cx="52.5" cy="20" r="6" />
    </g>
    <g class="dark">
      <circle cx="21" cy="32" r="2.7" />
      <circle cx="43" cy="32" r="2.7" />
      <path d="M32 29.5c4.5 0 6.5 4 6.5 9.5s-2.5 8.5-6.5 8.5-6.5-3-6.5-8.5 2-9.5 6.5-9.5z" />
    </g>
  </svg>
);
