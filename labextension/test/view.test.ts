import { LogPiece, RunHost, RunView } from '../src/run';
import { createRunView } from '../src/view';
import { VIEW } from './data';

let frames: FrameRequestCallback[] = [];

beforeEach(() => {
  frames = [];
  window.requestAnimationFrame = callback => frames.push(callback);
  window.cancelAnimationFrame = () => undefined;
});

function shown(host: RunHost = {}): {
  element: HTMLElement;
  view: ReturnType<typeof createRunView>;
} {
  const element = document.createElement('div');
  const view = createRunView(element, host);
  view.update(VIEW);
  return { element, view };
}

function button(element: HTMLElement, name: string): HTMLButtonElement | undefined {
  return Array.from(element.querySelectorAll('button')).find(b => b.textContent === name);
}

test('workers are told apart by letter and colour, and what users wrote is no markup', () => {
  const { element } = shown();
  const chips = Array.from(element.querySelectorAll('.nbt-worker'));
  expect(chips.map(chip => chip.textContent)).toEqual([
    '●\u202f0620 examples/s · 1.2 GB',
    '✕\u202f1'
  ]);
  expect(chips[0].getAttribute('title')).toBe('worker 0: training · 620 examples/s · 1.2 GB');
  expect(chips[1].className).toContain('nbt-tone-bad');
  expect(element.querySelector('.nbt-note b')).toBeNull();
});

test('the folder for TensorBoard is told, or what to do about it', async () => {
  const answers = [
    () => Promise.reject(new Error('add a callback')),
    () => Promise.resolve({ command: 'tensorboard --logdir x' })
  ];
  const { element } = shown({ tensorboard: () => answers.shift()!() });
  const pressed = button(element, 'TensorBoard')!;
  for (const said of ['add a callback', 'tensorboard --logdir x shows the logs']) {
    pressed.click();
    await new Promise(resolve => setTimeout(resolve));
    expect(element.querySelector('.nbt-reply')?.textContent).toBe(said);
    expect(pressed.disabled).toBe(false);
  }
});

test('many updates are drawn once a frame, and the last one wins', () => {
  const { element, view } = shown();
  for (let i = 0; i < 500; i++) {
    view.update({ ...VIEW, doing: `step ${i}` });
  }
  expect(frames).toHaveLength(1);
  frames[0](0);
  expect(element.querySelector('.nbt-title')?.textContent).toContain('step 499');
});

test.each([
  [2, 7],
  [64, 3]
])('of %i workers so much as can be followed is drawn', (count, drawn) => {
  jest.useFakeTimers({ doNotFake: ['requestAnimationFrame', 'cancelAnimationFrame'] });
  const { view } = shown();
  const workers = Array.from({ length: count }, () => VIEW.workers[0]);
  let seen = 0;
  for (let i = 0; i < 30; i++) {
    view.update({ ...VIEW, workers, doing: `step ${i}` });
    seen += frames.length;
    frames.splice(0).forEach(frame => frame(0));
    jest.advanceTimersByTime(100);
  }
  jest.useRealTimers();
  expect(Math.abs(seen - drawn)).toBeLessThanOrEqual(1);
});

test('parts that did not change are left alone', () => {
  const { element, view } = shown();
  const [chip, table] = ['.nbt-worker', 'table'].map(s => element.querySelector(s));
  view.update({ ...VIEW, doing: 'validating' });
  frames[0](0);
  expect(element.querySelector('.nbt-worker')).toBe(chip);
  expect(element.querySelector('table')).toBe(table);
});

test('the live region does not chatter: it says the status and no steps', () => {
  const { element, view } = shown();
  view.update({ ...VIEW, doing: 'something else', rest: ['step 7'] });
  frames[0](0);
  expect(element.querySelector('[role=status]')?.textContent).toBe('digits: training');
});

test('buttons that can do nothing are not there', () => {
  const { element } = shown();
  expect(button(element, 'Stop')).toBeUndefined();
  expect(button(element, 'Logs')).toBeUndefined();
  expect(button(element, 'Copy attach')).toBeDefined();
});

test.each([true, false])(
  'the room of buttons is kept until it is known whether they can do anything: %s',
  async can => {
    let answer: (can: boolean) => void = () => undefined;
    const there = new Promise<boolean>(resolve => (answer = resolve));
    const element = document.createElement('div');
    const log = (): Promise<never> => Promise.reject(new Error('unasked'));
    const view = createRunView(element, { remove: () => Promise.resolve(), log }, there);
    view.update(VIEW);
    expect(element.querySelector('.nbt-title')?.textContent).toContain('digits');
    const waiting = (): Element[] => Array.from(element.querySelectorAll('.nbt-waits'));
    const before = waiting();
    expect(before.map(one => one.textContent)).toEqual(['Logs', 'Delete']);
    answer(can);
    await there;
    expect(waiting()).toEqual([]);
    expect(before.map(one => element.contains(one))).toEqual([can, can]);
    expect(button(element, 'Copy attach')?.hidden).toBe(false);
  }
);

test('delete asks once more', () => {
  const remove = jest.fn(() => Promise.resolve());
  const { element } = shown({ remove });
  button(element, 'Delete')!.click();
  expect(remove).not.toHaveBeenCalled();
  button(element, 'Delete for good?')!.click();
  expect(remove).toHaveBeenCalledTimes(1);
});

test('a stop that fails says why, and can be tried again', async () => {
  const { element } = shown({ stop: () => Promise.reject(new Error('The kernel is busy.')) });
  button(element, 'Stop')!.click();
  expect(button(element, 'Stop')!.disabled).toBe(true);
  await new Promise(resolve => setTimeout(resolve));
  expect(element.querySelector('[role=alert]')?.textContent).toBe('The kernel is busy.');
  expect(button(element, 'Stop')!.disabled).toBe(false);
});

test('logs are read from the end, searched, and follow the worker that is chosen', async () => {
  const log = jest.fn((worker: number, offset: number) =>
    Promise.resolve({ text: `w${worker}\nloss\n`, offset, next: 8, full: false })
  );
  const { element } = shown({ log });
  button(element, 'Logs')!.click();
  await new Promise(resolve => setTimeout(resolve));
  expect(log).toHaveBeenLastCalledWith(0, -1);
  const text = element.querySelector('.nbt-log')!;
  expect(text.textContent).toBe('w0\nloss\n');
  const search = element.querySelector<HTMLInputElement>('input[type=search]')!;
  search.value = 'LOSS';
  search.dispatchEvent(new Event('input'));
  expect(text.textContent).toBe('loss');
  const worker = element.querySelector('select')!;
  worker.selectedIndex = 1;
  search.value = '';
  worker.dispatchEvent(new Event('change'));
  await new Promise(resolve => setTimeout(resolve));
  expect(text.textContent).toBe('w1\nloss\n');
});

test('what is open stays open in the view that takes its place, and has the focus', async () => {
  const log = (worker: number, offset: number): Promise<LogPiece> =>
    Promise.resolve({ text: `w${worker}\nloss\n`, offset, next: 8, full: false });
  const live = shown({ log });
  document.body.append(live.element);
  button(live.element, 'Logs')!.click();
  live.element.querySelector('select')!.selectedIndex = 1;
  const search = live.element.querySelector<HTMLInputElement>('input[type=search]')!;
  search.value = 'w1';
  search.focus();
  const there = Promise.resolve(true);
  const beside = document.createElement('div');
  createRunView(beside, { log }, there).update(VIEW);
  live.element.remove();
  const kept = document.createElement('div');
  document.body.append(kept);
  createRunView(kept, { log }, there).update({ ...VIEW, live: false });
  live.view.dispose(); // it is told later that it is over
  await new Promise(resolve => setTimeout(resolve));
  expect(beside.querySelector<HTMLElement>('.nbt-logs')!.hidden).toBe(true);
  expect(kept.querySelector<HTMLElement>('.nbt-logs')!.hidden).toBe(false);
  expect(kept.querySelector('.nbt-log')!.textContent).toBe('w1');
  expect(document.activeElement).toBe(kept.querySelector('input[type=search]'));
  const another = document.createElement('div');
  createRunView(another, { log }, there).update({ ...VIEW, live: false });
  await new Promise(resolve => setTimeout(resolve));
  expect(another.querySelector<HTMLElement>('.nbt-logs')!.hidden).toBe(true);
  kept.remove();
});

describe('the strip of workers', () => {
  const strip = (element: HTMLElement): HTMLElement => element.querySelector('.nbt-strip')!;
  const stops = (element: HTMLElement): (string | null)[] =>
    Array.from(element.querySelectorAll('.nbt-strip [tabindex]')).map(stop =>
      stop.getAttribute('aria-label')
    );
  const crowd = (count: number): RunView => ({
    ...VIEW,
    crowd: count,
    workers: Array.from({ length: count }, (_, index) => ({
      ...VIEW.workers[0],
      about: `worker ${index}: training`,
      rate: '',
      memory: ''
    }))
  });
  const press = (key: string): boolean =>
    document.activeElement!.dispatchEvent(
      new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true })
    );

  test('it is a list that says of each worker what its tooltip does', () => {
    const { element } = shown();
    expect(strip(element).getAttribute('role')).toBe('list');
    const items = Array.from(strip(element).children);
    expect(items.map(item => item.getAttribute('role'))).toEqual(['listitem', 'listitem']);
    const names = items.map(item => item.querySelector('[role=img]')?.getAttribute('aria-label'));
    expect(names).toEqual(['worker 0: training · 620 examples/s · 1.2 GB', 'worker 1: failed']);
    expect(names).toEqual(items.map(item => item.getAttribute('title')));
  });

  test('it has one tab stop, which the arrow keys move and redrawing leaves', () => {
    const { element, view } = shown();
    document.body.append(element);
    view.update({ ...crowd(64), live: false });
    frames.splice(0).forEach(frame => frame(0));
    expect(stops(element)).toEqual(['worker 0: training']);
    element.querySelector<HTMLElement>('.nbt-strip [tabindex]')!.focus();
    for (const key of ['ArrowRight', 'ArrowDown', 'ArrowLeft']) {
      press(key);
    }
    expect(stops(element)).toEqual(['worker 1: training']);
    expect(document.activeElement?.getAttribute('aria-label')).toBe('worker 1: training');
    press('End');
    press('ArrowRight');
    expect(document.activeElement?.getAttribute('aria-label')).toBe('worker 63: training');
    const focused = document.activeElement;
    view.update({ ...crowd(64), crew: 'others', live: false });
    frames.splice(0).forEach(frame => frame(0));
    expect(document.activeElement).toBe(focused);
    view.update({ ...crowd(3), live: false });
    frames.splice(0).forEach(frame => frame(0));
    expect(stops(element)).toEqual(['worker 2: training']);
    element.remove();
  });

  test('of more than 64 workers it is one picture', () => {
    const { element, view } = shown();
    view.update({ ...crowd(65), live: false });
    frames[0](0);
    expect(strip(element).getAttribute('role')).toBe('img');
    expect(strip(element).querySelectorAll('[role], [tabindex], [aria-label]')).toHaveLength(0);
    expect(strip(element).lastElementChild?.getAttribute('title')).toBe('worker 64: training');
  });

  test('drawn again, only what has changed is touched', () => {
    const { element, view } = shown();
    const watched = new MutationObserver(() => undefined);
    watched.observe(strip(element), { subtree: true, attributes: true, childList: true });
    const [first, second] = VIEW.workers;
    const about = 'worker 1: failed again';
    view.update({ ...VIEW, workers: [first, { ...second, about }] });
    frames[0](0);
    const touched = watched.takeRecords().map(record => record.attributeName);
    expect(touched).toEqual(['title', 'aria-label']);
  });
});
