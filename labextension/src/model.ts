/** All runs, as the server tells of them, for whatever shows them. */

import { ISignal, Signal } from '@lumino/signaling';
import { Changes, RunSummary } from './run';
import { Follow, followAgain } from './stream';

export class RunsModel {
  private readonly known = new Map<string, RunSummary>();
  private readonly change = new Signal<this, void>(this);
  private readonly end = new Signal<this, RunSummary>(this);
  private readonly abort = new AbortController();
  private isReady = false;
  private trouble = '';
  private unseen: string[] = [];

  constructor(private readonly follow: Follow<Changes>) {}

  /** Emitted whenever there is something else to show. */
  get changed(): ISignal<this, void> {
    return this.change;
  }

  /** Emitted with a run that was seen running and has ended. */
  get ended(): ISignal<this, RunSummary> {
    return this.end;
  }

  /** Whether the server has told which runs there are. */
  get ready(): boolean {
    return this.isReady;
  }

  /** Why nothing new comes; empty while it does. */
  get problem(): string {
    return this.trouble;
  }

  /** What keeps the server from seeing some of the runs, a sentence each. */
  get problems(): string[] {
    return this.unseen;
  }

  get running(): RunSummary[] {
    return this.sorted(run => run.live);
  }

  get finished(): RunSummary[] {
    return this.sorted(run => !run.live);
  }

  get(id: string): RunSummary | undefined {
    return this.known.get(id);
  }

  /**
   * Follow the stream, again and again where it breaks off.
   *
   * It goes on while the browser's tab is hidden, unlike all that only draws: the notification of a
   * run's end is for those who are looking at something else.
   */
  start(pause?: (ms: number) => Promise<void>): Promise<void> {
    const lost = (why: string): void => {
      this.trouble = why;
      this.change.emit();
    };
    const take = this.take.bind(this);
    return followAgain(this.follow, this.abort.signal, { take, lost }, pause);
  }

  take(changes: Changes): void {
    if (changes.all) {
      const there = new Set(changes.runs.map(run => run.id));
      changes.gone = [...this.known.keys()].filter(id => !there.has(id));
    }
    this.unseen = changes.problems ?? (changes.all ? [] : this.unseen);
    const ended = changes.runs.filter(run => !run.live && this.known.get(run.id)?.live);
    changes.gone.forEach(id => this.known.delete(id));
    changes.runs.forEach(run => this.known.set(run.id, run));
    this.isReady = true;
    this.trouble = '';
    this.change.emit();
    ended.forEach(run => this.end.emit(run));
  }

  dispose(): void {
    this.abort.abort();
    Signal.clearData(this);
  }

  private sorted(wanted: (run: RunSummary) => boolean): RunSummary[] {
    return [...this.known.values()].filter(wanted).sort((a, b) => b.created - a.created);
  }
}

/** Return an age in one unit: "just now", "5 min ago". */
export function age(created: number, now: number): string {
  const seconds = Math.max(now - created, 0);
  const units: [number, string][] = [
    [86400, 'd'],
    [3600, 'h'],
    [60, 'min']
  ];
  const unit = units.find(([size]) => seconds >= size);
  return unit ? `${Math.floor(seconds / unit[0])} ${unit[1]} ago` : 'just now';
}
