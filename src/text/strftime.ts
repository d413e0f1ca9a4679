/** Python's strftime in English (its C locale), in local time: what a template's strftime_now says. */
const months = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];
const days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

export function strftime(date: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const fields: { [letter: string]: () => string } = {
    Y: () => String(date.getFullYear()),
    m: () => two(date.getMonth() + 1),
    d: () => two(date.getDate()),
    y: () => two(date.getFullYear() % 100),
    H: () => two(date.getHours()),
    M: () => two(date.getMinutes()),
    S: () => two(date.getSeconds()),
    I: () => two(date.getHours() % 12 || 12),
    p: () => (date.getHours() < 12 ? "AM" : "PM"),
    B: () => months[date.getMonth()]!,
    b: () => months[date.getMonth()]!.slice(0, 3),
    A: () => days[date.getDay()]!,
    a: () => days[date.getDay()]!.slice(0, 3),
    "%": () => "%",
  };
  return format.replace(/%([A-Za-z%])/g, (token, letter: string) =>
    Object.hasOwn(fields, letter) ? fields[letter]!() : token,
  );
}
