/** Return a number of bytes as `nbtrain/formats.py` does: "1.2 GB". */
export function bytes(count: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit && value < 99.95 ? value.toFixed(1) : value.toFixed(0)} ${units[unit]}`;
}
