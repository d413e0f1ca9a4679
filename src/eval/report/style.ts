/** The report's style sheet: the colours of the chat page, a print form in black on white, figures that never rely on colour alone. */
import { Html } from "./html.ts";

/** Blue, grey and orange stay apart for people who see fewer colours; text on them keeps 4.5 : 1. */
export const styleSheet = new Html(`
:root{color-scheme:light dark;--paper:light-dark(#fbfaf7,#161a19);--raised:light-dark(#fff,#1e2422);--ink:light-dark(#1f2625,#e5e9e6);
--quiet:light-dark(#58625e,#a3ada8);--line:light-dark(#dedbd1,#323b38);--accent:light-dark(#2a6a4c,#86cda8);
--win:light-dark(#2c6a93,#79b8e0);--tie:light-dark(#cdcfc8,#4b5551);--loss:light-dark(#d98242,#e5a06c);
--on-win:light-dark(#fff,#10211a);--on-tie:light-dark(#1f2625,#e5e9e6);--on-loss:light-dark(#221203,#221203)}
*{box-sizing:border-box}
body{margin:0;overflow-wrap:anywhere;background:var(--paper);color:var(--ink);font:1rem/1.55 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;letter-spacing:-.02em;margin:0 0 .5rem;text-wrap:balance}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:3rem 0 .75rem;padding-top:.9rem;border-top:1px solid var(--line)}
h3{font-size:1.02rem;margin:1.75rem 0 .5rem}
p,ul{max-width:46rem;margin:.5rem 0}
.quiet,figcaption,caption{color:var(--quiet)}
.lead{font-size:1.1rem}
.scroll{overflow-x:auto;margin:.75rem 0}
.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{overflow-wrap:break-word;border-collapse:collapse;font-size:.9rem;min-width:100%}
th,td{padding:.4rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600;vertical-align:bottom;border-bottom-color:var(--quiet)}
.figure{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.text{min-width:4.5rem}td.text:first-child{min-width:8rem}small{font-size:.9em}
figure{margin:1.25rem 0}
figcaption{font-size:.9rem;max-width:46rem}
svg{display:block;width:100%;min-width:36rem;height:auto;font-size:13px}
svg text{fill:currentColor}
svg .quiet{fill:var(--quiet);font-size:12px}
.win{fill:var(--win)}.tie{fill:var(--tie)}.loss{fill:var(--loss)}
svg .in-win{fill:var(--on-win)}svg .in-tie{fill:var(--on-tie)}svg .in-loss{fill:var(--on-loss)}
.whisker{stroke:var(--ink);stroke-width:1.75;fill:none}
.grid{stroke:var(--line)}.half{stroke:var(--quiet);stroke-dasharray:4 4}
.mark{fill:var(--win)}.dot{fill:var(--win);opacity:.3}.trend{stroke:var(--loss);stroke-width:2.5;fill:none}
.key{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:.5rem 0;padding:0;font-size:.9rem;list-style:none}
.key i{display:inline-block;width:.85em;height:.85em;margin-right:.4em;border-radius:2px;vertical-align:-.05em}
.key .win{background:var(--win)}.key .tie{background:var(--tie)}.key .loss{background:var(--loss)}
details{border-bottom:1px solid var(--line)}
summary{padding:.5rem 0;cursor:pointer;overflow-wrap:anywhere}
summary .quiet{font-size:.9rem}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:.9rem;margin:.5rem 0 1rem}
.answers section{border:1px solid var(--line);border-radius:.6rem;background:var(--raised);padding:.7rem .9rem;min-width:0}
.answers h4{margin:0 0 .35rem;font-size:.9rem}
.text-block{white-space:pre-wrap;overflow-wrap:anywhere;max-height:28rem;overflow-y:auto;font-size:.92rem}
code,pre{font-family:ui-monospace,"SF Mono","Cascadia Code",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.85rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--raised);border:1px solid var(--line);border-radius:.6rem;padding:.7rem .9rem}
td code{overflow-wrap:anywhere}
@media print{:root{font-size:9.5pt;color-scheme:light;--paper:#fff;--raised:#fff}main{max-width:none;padding:0}.browser{display:none}
h2,h3{break-after:avoid}figure,tr{break-inside:avoid}.scroll{overflow:visible}svg{min-width:0}table{font-size:.84rem}*{print-color-adjust:exact}}
`);
