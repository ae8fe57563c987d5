import { hostOf, KernelHost, Model } from '../src/host';
import { RunHost } from '../src/run';
import { Server } from '../src/server';
import { VIEW } from './data';

type Content = Parameters<Parameters<Model['on']>[1]>[0];

/** A kernel's model that writes down what it is sent, and answers when it is told to. */
class Kernel {
  readonly sent: { id: string; ask: string; with: unknown }[] = [];
  private heard: ((content: Content) => void)[] = [];

  readonly model = {
    get: (name: string) =>
      name === 'view' ? VIEW : ['stop', 'delete', 'tensorboard', 'log'].slice(0, this.actions),
    on: (_: string, callback: (content: Content) => void) => this.heard.push(callback),
    off: (_: string, gone: unknown) => (this.heard = this.heard.filter(one => one !== gone)),
    send: (content: Kernel['sent'][number]) => this.sent.push(content)
  } as unknown as Model;

  constructor(private readonly actions = 4) {}

  answer(content: Content): void {
    const to = this.sent[this.sent.length - 1].id;
    this.heard.forEach(callback => callback({ to, ...content }));
  }

  get asked(): string[] {
    return this.sent.map(one => one.ask);
  }
}

/** A server that writes down what it is asked, and knows the run from some time on. */
function serving(knows: () => boolean, log: string[]): Server {
  return new Server('/', (url, init) => {
    const path = url.replace('/nbtrain/api/runs/digits-1', '');
    log.push(`${init.method ?? 'GET'} ${path}`.trim());
    const ok = knows();
    const body = { text: 'by the server', command: 'by the server' };
    return Promise.resolve({ ok, status: 404, json: () => Promise.resolve(body) } as Response);
  });
}

let kernel: Kernel;
let log: string[];
let known: boolean;
let host: RunHost;

beforeEach(() => {
  jest.useFakeTimers();
  kernel = new Kernel();
  log = [];
  known = false;
  host = hostOf(
    kernel.model,
    new KernelHost(kernel.model),
    serving(() => known, log)
  );
});

afterEach(() => jest.useRealTimers());

/** Let what is under way come to the kernel. */
async function settle(): Promise<void> {
  await jest.advanceTimersByTimeAsync(0);
}

test('without a server the kernel is asked, and its answer or error is what comes of it', async () => {
  host = hostOf(kernel.model, new KernelHost(kernel.model), null);
  const text = host.log!(1, 7);
  await settle();
  expect(kernel.sent[0]).toMatchObject({ ask: 'log', with: { worker: 1, offset: 7 } });
  kernel.answer({ value: { text: 'by the kernel' } });
  expect(await text).toEqual({ text: 'by the kernel' });
  const stopped = host.stop!();
  await settle();
  kernel.answer({ error: 'It has ended.' });
  await expect(stopped).rejects.toThrow('It has ended.');
});

test('answers reach whoever asked for them', async () => {
  host = hostOf(kernel.model, new KernelHost(kernel.model), null);
  const [first, second] = [host.log!(0, 0), host.tensorboard!()];
  await settle();
  kernel.answer({ value: { command: 'second' } });
  kernel.answer({ to: kernel.sent[0].id, value: { text: 'first' } });
  expect(await second).toEqual({ command: 'second' });
  expect(await first).toEqual({ text: 'first' });
});

test('a kernel that does not answer is waited for, and then it is said what to do', async () => {
  let said = '';
  host.stop!().catch((error: unknown) => (said = String(error)));
  await jest.advanceTimersByTimeAsync(3900);
  expect(said).toBe('');
  await jest.advanceTimersByTimeAsync(200);
  expect(said).toMatch(/runs a cell.*Interrupt it first/);
});

test('a server that knows the run is asked once whether it does, and the kernel nothing', async () => {
  known = true;
  expect(await host.log!(1, 0)).toMatchObject({ text: 'by the server' });
  await host.stop!();
  await host.remove!();
  expect(await host.tensorboard!()).toMatchObject({ command: 'by the server' });
  expect(log).toEqual(['GET', 'GET /logs/1?offset=0', 'POST /stop', 'DELETE', 'POST /tensorboard']);
  expect(kernel.sent).toEqual([]);
});

test('a log that is followed asks again every 5 s whether the server has the run', async () => {
  for (let second = 0; second < 11; second++) {
    const read = host.log!(0, 0);
    await settle();
    kernel.answer({ value: { text: 'by the kernel' } });
    expect(await read).toEqual({ text: 'by the kernel' });
    await jest.advanceTimersByTimeAsync(1000);
  }
  expect(log).toEqual(['GET', 'GET', 'GET']);
  known = true;
  await jest.advanceTimersByTimeAsync(5000);
  expect(await host.log!(0, 0)).toMatchObject({ text: 'by the server' });
});

test('a button asks at once whether the server has the run', async () => {
  const read = host.log!(0, 0);
  await settle();
  kernel.answer({ value: { text: 'by the kernel' } });
  await read;
  known = true;
  await host.stop!();
  expect(log).toEqual(['GET', 'GET', 'POST /stop']);
  expect(kernel.asked).toEqual(['log']);
  // And so does the log from now on.
  expect(await host.log!(0, 0)).toMatchObject({ text: 'by the server' });
});

test('what the kernel does not offer has no function', () => {
  const offering = new Kernel(1);
  const some = hostOf(offering.model, new KernelHost(offering.model), null);
  const offered = Object.entries(some).filter(([, does]) => does !== undefined);
  expect(offered.map(([name]) => name)).toEqual(['stop']);
});
