/** The contrast of every visible text on the page with the ground below it, by the formula of WCAG 2.2 (relative luminance). */
import type { Page } from "playwright-core";

export interface Contrast {
  text: string;
  ratio: number;
  color: string;
  ground: string;
  /** Whether the ground is a dark one. */
  dark: boolean;
}

export function contrasts(page: Page): Promise<Contrast[]> {
  return page.evaluate(() => {
    const parse = (color: string) => (color.match(/[\d.]+/g) ?? []).map(Number);
    const over = (top: number[], below: number[]) => {
      const alpha = top[3] ?? 1;
      return [0, 1, 2].map((index) => top[index]! * alpha + below[index]! * (1 - alpha));
    };
    const groundOf = (element: Element | null): number[] => {
      if (element === null) return [255, 255, 255];
      const own = parse(getComputedStyle(element).backgroundColor);
      return own[3] === 0
        ? groundOf(element.parentElement)
        : over(own, (own[3] ?? 1) < 1 ? groundOf(element.parentElement) : own);
    };
    const luminance = (color: number[]) => {
      const [red, green, blue] = color.slice(0, 3).map((channel) => {
        const value = channel / 255;
        return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * red! + 0.7152 * green! + 0.0722 * blue!;
    };
    const measure = (text: string, element: Element, pseudo?: string) => {
      const ground = groundOf(element);
      const color = over(parse(getComputedStyle(element, pseudo).color), ground);
      const [low, high] = [luminance(color), luminance(ground)].toSorted((a, b) => a - b);
      return {
        text,
        ratio: (high! + 0.05) / (low! + 0.05),
        color: String(color),
        ground: String(ground),
        dark: luminance(ground) < 0.2,
      };
    };
    const shown = (element: Element) =>
      element.checkVisibility({ opacityProperty: true }) && element.closest(".unseen, :disabled") === null;
    const results = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
      const text = node.textContent!.trim();
      if (text !== "" && shown(node.parentElement!))
        results.push(measure(text.slice(0, 40), node.parentElement!));
    }
    for (const icon of document.querySelectorAll("svg.icon"))
      if (shown(icon)) results.push(measure("icon", icon));
    for (const field of document.querySelectorAll("input, textarea")) {
      if (shown(field))
        results.push(
          measure(`placeholder of ${field.id}`, field, "::placeholder"),
          measure(`text of ${field.id}`, field),
        );
    }
    return results;
  });
}
