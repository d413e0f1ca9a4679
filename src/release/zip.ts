/** The directory of a zip archive whose members are stored as they are, as `torch.save` writes them (zip64 included). */
import { open } from "node:fs/promises";
import { basename } from "node:path";
import { UsageError } from "../util/errors.ts";

/** Member name to its bytes in the file: [begin, end). */
export async function readZipDirectory(path: string): Promise<Map<string, { begin: number; end: number }>> {
  const handle = await open(path, "r").catch((error: NodeJS.ErrnoException) => {
    throw new UsageError(
      `Cannot open ${path}: ${error.code === "ENOENT" ? "there is no such file" : error.message}.`,
    );
  });
  const read = async (at: number, length: number): Promise<DataView> => {
    const bytes = new Uint8Array(length);
    const { bytesRead } = at < 0 ? { bytesRead: 0 } : await handle.read(bytes, 0, length, at);
    if (bytesRead !== length) throw broken(path, "it is cut short");
    return new DataView(bytes.buffer);
  };
  try {
    const { size } = await handle.stat();
    const { entries, offset, bytes } = await findDirectory(read, size, path);
    const members = new Map<string, { begin: number; end: number }>();
    const directory = await read(offset, bytes);
    for (let i = 0, at = 0; i < entries; i++) {
      const { name, begin: header, length, next } = readEntry(directory, at, path);
      // The local header repeats the name and may have other extra fields than the directory.
      const local = await read(header, 30);
      const begin = header + 30 + local.getUint16(26, true) + local.getUint16(28, true);
      if (begin + length > size) throw broken(path, `its member ${name} is cut short`);
      members.set(name, { begin, end: begin + length });
      at = next;
    }
    return members;
  } finally {
    await handle.close();
  }
}

type Read = (at: number, length: number) => Promise<DataView>;

/** The end record stands in the last 64 KiB; 0xffffffff in it points to the zip64 record in front. */
async function findDirectory(
  read: Read,
  size: number,
  path: string,
): Promise<{ entries: number; offset: number; bytes: number }> {
  const tailBytes = Math.min(size, 65_557);
  const tail = await read(size - tailBytes, tailBytes);
  let at = tailBytes - 22;
  while (at >= 0 && tail.getUint32(at, true) !== 0x06054b50) at--;
  if (at < 0)
    throw broken(
      path,
      "it is no zip archive; files of PyTorch before 1.6 must be saved again by a newer one",
    );
  const found = {
    entries: tail.getUint16(at + 10, true),
    bytes: tail.getUint32(at + 12, true),
    offset: tail.getUint32(at + 16, true),
  };
  const locator = at - 20;
  if (locator < 0 || tail.getUint32(locator, true) !== 0x07064b50) return checked(found, size, path);
  const record = await read(Number(tail.getBigUint64(locator + 8, true)), 56);
  return checked(
    {
      entries: Number(record.getBigUint64(32, true)),
      bytes: Number(record.getBigUint64(40, true)),
      offset: Number(record.getBigUint64(48, true)),
    },
    size,
    path,
  );
}

function checked(
  found: { entries: number; offset: number; bytes: number },
  size: number,
  path: string,
): { entries: number; offset: number; bytes: number } {
  if (found.offset + found.bytes > size || found.entries * 46 > found.bytes)
    throw broken(path, "its directory lies outside the file");
  return found;
}

function readEntry(
  view: DataView,
  at: number,
  path: string,
): { name: string; begin: number; length: number; next: number } {
  if (at + 46 > view.byteLength || view.getUint32(at, true) !== 0x02014b50)
    throw broken(path, "its directory is damaged");
  const [nameLength, extraLength, commentLength] = [28, 30, 32].map((offset) =>
    view.getUint16(at + offset, true),
  ) as [number, number, number];
  const next = at + 46 + nameLength + extraLength + commentLength;
  if (next > view.byteLength) throw broken(path, "its directory is damaged");
  const name = new TextDecoder().decode(new Uint8Array(view.buffer, at + 46, nameLength));
  if (view.getUint16(at + 10, true) !== 0)
    throw broken(path, `its member ${name} is compressed, which torch.save never does`);
  let length = view.getUint32(at + 24, true);
  let begin = view.getUint32(at + 42, true);
  // Sizes of 4 GiB and more stand in the zip64 field, in this order and only where the short one is full.
  for (let field = at + 46 + nameLength; field + 4 <= next - commentLength;) {
    const [id, bytes] = [view.getUint16(field, true), view.getUint16(field + 2, true)];
    if (id === 1) {
      let value = field + 4;
      const wide = (): number => Number(view.getBigUint64((value += 8) - 8, true));
      if (length === 0xffffffff) length = wide();
      if (view.getUint32(at + 20, true) === 0xffffffff) wide();
      if (begin === 0xffffffff) begin = wide();
    }
    field += 4 + bytes;
  }
  return { name, begin, length, next };
}

const broken = (path: string, why: string): UsageError =>
  new UsageError(`${basename(path)} cannot be read: ${why}. Fetch it again.`);
