/** The training page's entry: puts the application into the document. */
import { render } from "preact";
import { TrainingApp } from "./app.tsx";

const root = document.getElementById("app");
if (root !== null) render(<TrainingApp />, root);
