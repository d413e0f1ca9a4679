/** Numeric fields of a request with their limits, and bodies that hold any JSON text in their place. */

/** A numeric field: what it may be, with the value's place in the body. Values are JSON text, so that 1e999 stays itself. */
export interface Field {
  name: string;
  min: string;
  belowMin: string;
  max: string;
  aboveMax: string;
  /** Fields that must be present have no null. */
  required?: boolean;
  body: (value: string) => string;
}

export const field = (base: object, name: string, min: number, max: number, step = 1): Field => ({
  name,
  min: String(min),
  belowMin: String(min - step),
  max: String(max),
  aboveMax: String(max + step),
  body: (value) => JSON.stringify({ ...base, [name]: "@" }).replace('"@"', value),
});
export const inside = (base: object, name: string, template: string, max: number, min = 0): Field => ({
  ...field(base, name, min, max),
  required: true,
  body: (value) => JSON.stringify({ ...base, [name]: "@" }).replace('"@"', template.replace("@", value)),
});
