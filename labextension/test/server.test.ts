import { shown } from '../src/logs';
import { parser, Server } from '../src/server';
import { bytes } from '../src/size';

function answering(status: number, body: unknown): [Server, string[]] {
  const asked: string[] = [];
  const server = new Server('/hub/user/ann/', (url, init) => {
    asked.push(`${init.method ?? 'GET'} ${url}`);
    const ok = status < 400;
    return Promise.resolve({
      ok,
      status,
      statusText: 'x',
      json: () => Promise.resolve(body)
    } as Response);
  });
  return [server, asked];
}

test('paths are below the base URL, and what is in them is encoded', async () => {
  const [server, asked] = answering(200, { runs: [], text: '' });
  await server.runs();
  await server.log('a', 1, 7);
  await server.stop('a');
  await server.remove('a');
  expect(asked).toEqual([
    'GET /hub/user/ann/nbtrain/api/runs',
    'GET /hub/user/ann/nbtrain/api/runs/a/logs/1?offset=7',
    'POST /hub/user/ann/nbtrain/api/runs/a/stop',
    'DELETE /hub/user/ann/nbtrain/api/runs/a'
  ]);
  expect(server.fileUrl('a', 'files/ä b.txt')).toMatch(/runs\/a\/files\/files\/%C3%A4%20b\.txt$/);
});

test('what the server says is wrong is what is thrown', async () => {
  const [server] = answering(409, { message: 'The run is gone.' });
  await expect(server.stop('a')).rejects.toThrow('The run is gone.');
  expect(await server.knows('a')).toBe(false);
});

test('events come whole, however the stream is cut', () => {
  const got: string[] = [];
  const parse = parser(data => got.push(data));
  for (const piece of ['data: {"a"', ': 1}\n', '\n: nothing new\n\nda', 'ta: 2\n\n']) {
    parse(piece);
  }
  expect(got).toEqual(['{"a": 1}', '2']);
});

test('a log is shown as a terminal would', () => {
  expect(shown('\x1b[31mred\x1b[0m\r\n10%\r50%\r100%\nend')).toBe('red\n100%\nend');
});

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1234, '1.2 kB'],
  [94_000_000, '94.0 MB']
])('%d bytes are "%s"', (count, said) => expect(bytes(count)).toBe(said));
