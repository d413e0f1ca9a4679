/** The arena page's entry: puts the application into the document. */
import { render } from "preact";
import { ArenaApp } from "./app.tsx";

const root = document.getElementById("app");
if (root !== null) render(<ArenaApp />, root);
