/** Lists in pages: so many rows after the row of an id, and whether there are more. */

export interface PageRequest {
  limit: number;
  /** The last id of the page before. */
  after?: string | undefined;
}

export interface Page<Row> {
  rows: Row[];
  hasMore: boolean;
}

/** `rows` were read with a limit of one more than asked for. */
export function pageOf<Row>(rows: Row[], limit: number): Page<Row> {
  return { rows: rows.slice(0, limit), hasMore: rows.length > limit };
}
