import { Widget } from '@lumino/widgets';
import { RunsModel } from '../src/model';
import { RunSummary, RunView } from '../src/run';
import { Server } from '../src/server';
import { Sidebar } from '../src/sidebar';
import { RunTab } from '../src/tab';
import { VIEW } from './data';

/** One request for the stream of a run. */
interface Asked {
  signal: AbortSignal;
  take(view: RunView | { gone: true }): void;
  end(): void;
}

let asked: Asked[] = [];
let read: number[] = [];
let tab: RunTab;

beforeEach(() => {
  jest.useFakeTimers();
  asked = [];
  read = [];
  see(true);
  tab = new RunTab(VIEW.id, serving());
  Widget.attach(tab, document.body);
});

afterEach(() => {
  tab.dispose();
  jest.useRealTimers();
});

function serving(): Server {
  const follow = (_: string, signal: AbortSignal, take: Asked['take']): Promise<void> =>
    new Promise((end, fail) => {
      asked.push({ signal, take, end });
      signal.addEventListener('abort', () => fail(new Error('aborted')));
    });
  const log = (_: string, worker: number): Promise<unknown> => {
    read.push(worker);
    return Promise.resolve({ text: 'loss\n', offset: 0, next: 5, full: false });
  };
  return { follow, log } as unknown as Server;
}

/** Bring the browser's tab into sight or out of it. */
function see(seen: boolean): void {
  Object.defineProperty(document, 'hidden', { configurable: true, value: !seen });
  document.dispatchEvent(new Event('visibilitychange'));
}

function said(): string | null {
  return tab.node.querySelector('.nbt-lost')!.textContent;
}

test('a stream that the server ends is asked for again, and the tab says so meanwhile', async () => {
  asked[0].take(VIEW);
  expect(said()).toBe('');
  asked[0].end();
  await jest.advanceTimersByTimeAsync(900);
  expect(said()).toBe('Connection lost, trying again: The connection to the server has ended.');
  expect(asked).toHaveLength(1);
  await jest.advanceTimersByTimeAsync(200);
  expect(asked).toHaveLength(2);
  asked[1].take({ ...VIEW, name: 'again' });
  expect(said()).toBe('');
  expect(tab.title.label).toBe('again');
});

test('a tab closes with its run, and asks for nothing more', async () => {
  asked[0].take({ gone: true });
  expect(tab.isDisposed).toBe(true);
  await jest.advanceTimersByTimeAsync(20_000);
  expect(asked).toHaveLength(1);
});

test.each([
  ['the browser', () => see(false), () => see(true)],
  ['JupyterLab', () => tab.hide(), () => tab.show()]
])('a tab that is hidden in %s follows nothing until it is seen', async (_, hide, show) => {
  asked[0].take(VIEW);
  hide();
  expect(asked[0].signal.aborted).toBe(true);
  await jest.advanceTimersByTimeAsync(60_000);
  expect(asked).toHaveLength(1);
  expect(said()).toBe('');
  show();
  expect(asked).toHaveLength(2);
  expect(asked[1].signal.aborted).toBe(false);
});

test('a log is not asked for while the browser shows another tab', async () => {
  asked[0].take(VIEW);
  tab.show_('Logs');
  await jest.advanceTimersByTimeAsync(2500);
  expect(read).toHaveLength(3);
  see(false);
  await jest.advanceTimersByTimeAsync(60_000);
  expect(read).toHaveLength(3);
  see(true);
  await jest.advanceTimersByTimeAsync(1500);
  expect(read).toHaveLength(5);
});

test('the sidebar draws nothing while the browser shows another tab, and all of it after', () => {
  const model = new RunsModel(() => Promise.resolve());
  const sidebar = new Sidebar(model, () => undefined);
  Widget.attach(sidebar, document.body);
  const names = (): (string | null)[] =>
    Array.from(sidebar.node.querySelectorAll('.nbt-rowname')).map(name => name.textContent);
  const runs: RunSummary[] = [VIEW];
  model.take({ runs, gone: [], all: true });
  expect(names()).toEqual(['digits']);
  see(false);
  model.take({ runs: [{ ...VIEW, id: 'b', name: 'b' }], gone: [], all: true });
  expect(names()).toEqual(['digits']);
  see(true);
  expect(names()).toEqual(['b']);
  sidebar.dispose();
});
