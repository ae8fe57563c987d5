import { Widget } from '@lumino/widgets';
import { meant, OF_ROW } from '../src/meant';
import { age, RunsModel } from '../src/model';
import { Changes, RunSummary } from '../src/run';
import { Sidebar } from '../src/sidebar';

function run(id: string, more: Partial<RunSummary> = {}): RunSummary {
  const common = {
    name: id,
    backend: 'local',
    context: '',
    tone: 'busy',
    metric: '',
    rest: [],
    part: 0
  } as const;
  const now = { status: 'training', live: true, created: 1, ended: null, doing: 'training' };
  return { id, ...common, ...now, crowd: 2, ...more, rest: [] };
}

const none = (): Promise<void> => Promise.resolve();

test('running and finished runs are apart, the newest first', () => {
  const model = new RunsModel(none);
  const runs = [run('a'), run('b', { created: 2 }), run('c', { live: false })];
  model.take({ runs, gone: [], all: true });
  expect(model.running.map(r => r.id)).toEqual(['b', 'a']);
  expect(model.finished.map(r => r.id)).toEqual(['c']);
});

test('what the server tells anew replaces all that was known', () => {
  const model = new RunsModel(none);
  model.take({ runs: [run('a'), run('b')], gone: [], all: true });
  model.take({ runs: [run('b')], gone: [], all: true });
  expect(model.running.map(r => r.id)).toEqual(['b']);
  model.take({ runs: [], gone: ['b'], all: false });
  expect(model.running).toEqual([]);
});

test('a run that was seen running is told once when it ends', () => {
  const model = new RunsModel(none);
  const ended: string[] = [];
  model.ended.connect((_, r) => ended.push(r.id));
  model.take({ runs: [run('a'), run('old', { live: false })], gone: [], all: true });
  model.take({ runs: [run('a', { live: false })], gone: [], all: false });
  model.take({ runs: [run('a', { live: false, part: 1 })], gone: [], all: false });
  expect(ended).toEqual(['a']);
});

test('a stream that breaks off is asked for again, ever more slowly', async () => {
  const pauses: number[] = [];
  const model = new RunsModel(() => Promise.reject(new Error('away')));
  await model.start(ms => {
    pauses.push(ms);
    if (pauses.length === 5) {
      model.dispose();
    }
    return Promise.resolve();
  });
  expect(pauses).toEqual([1000, 2000, 5000, 15000, 15000]);
  expect(model.problem).toBe('away');
});

test('news end the trouble and its long pauses', async () => {
  const pauses: number[] = [];
  let calls = 0;
  const model = new RunsModel((_, take: (changes: Changes) => void) => {
    calls++;
    if (calls === 3) {
      take({ runs: [], gone: [], all: true });
      expect(model.problem).toBe('');
    }
    return Promise.reject(new Error('away'));
  });
  await model.start(ms => {
    pauses.push(ms);
    if (pauses.length === 3) {
      model.dispose();
    }
    return Promise.resolve();
  });
  expect(pauses).toEqual([1000, 2000, 1000]);
});

test.each([
  [10, 'just now'],
  [130, '2 min ago'],
  [7300, '2 h ago'],
  [200000, '2 d ago']
])('after %d seconds an age is "%s"', (seconds, said) => {
  expect(age(1000, 1000 + seconds)).toBe(said);
});

test.each([
  ['a row, in its menu', OF_ROW, { row: 'old', tab: 'a' }, 'old'],
  ['a run by its id', { run: 'a' }, { row: 'old', tab: 'old' }, 'a'],
  ['the tab in front, in the palette', { isPalette: true }, { row: 'a', tab: 'old' }, 'old'],
  ['the newest that runs, in the palette', { isPalette: true }, { row: 'old' }, 'b'],
  ['the newest that runs, by a key', {}, { row: 'old' }, 'b'],
  ['the newest that runs, where the tab has no run any more', {}, { tab: 'gone' }, 'b'],
  ['nothing, where the row has no run any more', OF_ROW, { row: 'gone' }, undefined]
])('a command is about %s', (_, args, places: { row?: string; tab?: string }, id) => {
  const model = new RunsModel(none);
  const old = run('old', { live: false, created: 3 });
  model.take({ runs: [run('a'), run('b', { created: 2 }), old], gone: [], all: true });
  const found = meant(args, model, { row: () => places.row, tab: () => places.tab });
  expect(found?.id).toBe(id);
});

test('a command is about the newest finished run where none is running', () => {
  const model = new RunsModel(none);
  const places = { row: () => undefined, tab: () => undefined };
  expect(meant({}, model, places)).toBeUndefined();
  const runs = [run('a', { live: false }), run('b', { live: false, created: 2 })];
  model.take({ runs, gone: [], all: true });
  expect(meant({ isPalette: true }, model, places)?.id).toBe('b');
});

test('problems stay until the server tells others, or all anew', () => {
  const model = new RunsModel(none);
  const take = (all: boolean, problems?: string[]): string[] => {
    model.take({ runs: [], gone: [], all, problems });
    return model.problems;
  };
  expect(take(true)).toEqual([]);
  expect(take(false, ['kubernetes: away'])).toEqual(['kubernetes: away']);
  expect(take(false)).toEqual(['kubernetes: away']);
  expect(take(false, [])).toEqual([]);
  expect(take(true, ['kubernetes: away'])).toEqual(['kubernetes: away']);
  expect(take(true)).toEqual([]);
});

test('the sidebar says where a run is, and why others may be missing', () => {
  const model = new RunsModel(none);
  const sidebar = new Sidebar(model, () => undefined);
  Widget.attach(sidebar, document.body);
  const problems = ["kubernetes: the cluster can't be reached", 'docker: not running'];
  const runs = [run('a'), run('b', { backend: 'kubernetes', context: 'lab', created: 0 })];
  model.take({ runs, gone: [], all: true, problems });
  const rows = Array.from(sidebar.node.querySelectorAll('.nbt-row'));
  expect(rows.map(row => row.lastElementChild?.textContent)).toEqual(['local', 'kubernetes · lab']);
  const said = sidebar.node.querySelector('.nbt-problems')!;
  expect(said.textContent).toBe(problems.join('\n'));
  model.take({ runs: [], gone: [], all: false, problems: [] });
  expect(said.textContent).toBe('');
  sidebar.dispose();
});
