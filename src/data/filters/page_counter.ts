/** The page counter that scraping ShareGPT left before some turns: `2 / 2Create 10 …`.
 *  Always: only at the start, n of m with n <= m, and glued to what follows, so that "1 / 2 cup of sugar" stays. */

export const withoutPageCounter = (text: string): string =>
  text.replace(counter, (whole, page: string, pages: string) => (Number(page) <= Number(pages) ? "" : whole));

const counter = /^\s*(\d{1,3}) \/ (\d{1,3})(?![\d ./,])\s*/;
