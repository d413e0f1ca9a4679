/** The end of a rater's work: thanks, and the completion code in the form that the platform wants it. */
import { CopyButton } from "../markdown.tsx";
import type { Completion } from "./client.ts";

export function DonePage({ completion }: { completion: Completion }) {
  const { code, url, submit } = completion;
  return (
    <main class="sheet">
      <h1>Done. Thank you!</h1>
      <p>Everything you were asked to compare has your vote. Your completion code is</p>
      <p class="code-line">
        <strong class="mono">{code}</strong>
        <CopyButton text={code} label="Copy the code" />
      </p>
      {url !== null && (
        <a class="button primary large" href={url}>
          Finish
        </a>
      )}
      {submit !== null && (
        <form method="post" action={submit.url}>
          {Object.entries(submit.fields).map(([name, value]) => (
            <input key={name} type="hidden" name={name} value={value} />
          ))}
          <button class="button primary large">Submit the task</button>
        </form>
      )}
      {url === null && submit === null && <p class="hint">You may close this page.</p>}
    </main>
  );
}
