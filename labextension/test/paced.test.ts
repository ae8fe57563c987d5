import { Paced } from '../src/paced';

beforeEach(() => jest.useFakeTimers());
afterEach(() => jest.useRealTimers());

test('the first and the last of many are done, and few between', () => {
  const done: number[] = [];
  const paced = new Paced(1000);
  for (let i = 0; i < 50; i++) {
    paced.ask(() => done.push(i));
    jest.advanceTimersByTime(100);
  }
  jest.advanceTimersByTime(1000);
  expect(done[0]).toBe(0);
  expect(done[done.length - 1]).toBe(49);
  expect(done.length).toBeLessThan(8);
});

test('what is urgent is done at once, and nothing older after it', () => {
  const done: string[] = [];
  const paced = new Paced(1000);
  paced.ask(() => done.push('first'));
  paced.ask(() => done.push('older'));
  paced.ask(() => done.push('urgent'), true);
  jest.advanceTimersByTime(5000);
  expect(done).toEqual(['first', 'urgent']);
});

test('held back, nothing is done until it goes on', () => {
  const done: string[] = [];
  const paced = new Paced(1000);
  paced.ask(() => done.push('first'));
  paced.ask(() => done.push('second'));
  paced.hold();
  jest.advanceTimersByTime(5000);
  expect(done).toEqual(['first']);
  paced.goOn();
  paced.goOn();
  expect(done).toEqual(['first', 'second']);
});
