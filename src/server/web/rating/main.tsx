/** The rating page's entry: puts the application into the document. */
import { render } from "preact";
import { RatingApp } from "./app.tsx";

const root = document.getElementById("app");
if (root !== null) render(<RatingApp />, root);
