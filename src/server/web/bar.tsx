/** The bar on top: model, mode, theme, and the buttons that open the panels where there is no room for them. */
import type { Model } from "./client.ts";
import { Koala, MenuIcon, MoonIcon, SlidersIcon, SunIcon } from "./icons.tsx";
import type { Settings } from "./storage.ts";

export function Bar(props: {
  wide: boolean;
  settings: Settings;
  onChange: (part: Partial<Settings>) => void;
  models: Model[];
  model: string;
  settingsOpen: boolean;
  theme: Parameters<typeof ThemeButton>[0];
  onHistory: () => void;
  onSettings: () => void;
}) {
  const { settings, onChange } = props;
  return (
    <header class="bar">
      {props.wide ? (
        <span class="brand">
          <Koala />
          Koala
        </span>
      ) : (
        <button type="button" class="quiet" title="Chats" aria-label="Chats" onClick={props.onHistory}>
          <MenuIcon />
        </button>
      )}
      <select
        class="field model"
        aria-label="Model"
        title={props.model}
        value={props.model}
        disabled={props.models.length === 0}
        onChange={(event) => onChange({ model: event.currentTarget.value })}
      >
        {props.models.map(({ id }) => (
          <option key={id} value={id}>
            {id}
          </option>
        ))}
      </select>
      <fieldset class="modes">
        <legend class="unseen">Mode</legend>
        {(["chat", "completion"] as const).map((mode) => (
          <label key={mode}>
            <input
              type="radio"
              name="mode"
              checked={settings.mode === mode}
              onChange={() => onChange({ mode })}
            />
            <span>{mode === "chat" ? "Chat" : "Completion"}</span>
          </label>
        ))}
      </fieldset>
      <span class="space" />
      {props.wide && <TrainingLink />}
      {props.wide && <ThemeButton {...props.theme} />}
      <button
        type="button"
        class="quiet"
        title="Settings"
        aria-label="Settings"
        aria-expanded={props.settingsOpen}
        onClick={props.onSettings}
      >
        <SlidersIcon />
      </button>
    </header>
  );
}

/** Where the server says that it has such a page. */
export function TrainingLink() {
  if (document.querySelector('meta[name="koala-page"][content="/training"]') === null) return null;
  return (
    <a class="button" href="/training">
      Training
    </a>
  );
}

export function ThemeButton(props: { shown: "light" | "dark"; onSwitch: () => void; spelledOut?: boolean }) {
  const other = props.shown === "dark" ? "light" : "dark";
  const label = `Switch to the ${other} theme`;
  return (
    <button
      type="button"
      class={props.spelledOut ? "button" : "quiet"}
      title={label}
      aria-label={label}
      onClick={props.onSwitch}
    >
      {props.shown === "dark" ? <SunIcon /> : <MoonIcon />}
      {props.spelledOut && label}
    </button>
  );
}
